"""What the demo is expected to show, and whether this run shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from objemb.datasets.writing import IN_PHOTO, PICTURE

#: The demo is to take at most so many minutes after installation, on two cores.
MINUTES = 10


def check(figures: Mapping[str, Any], seconds: float) -> list[dict[str, object]]:
    """One entry per check: ``text``, ``found``, ``value``, ``holds``.

    Args:
        figures: Rows and detection of :func:`objemb.cli.programs.demos.figures.measure`.
        seconds: What all steps took.
    """
    ap = {row["key"]: row["by_kind"][IN_PHOTO]["mAP"] for row in figures["rows"]}
    of_pictures = {row["key"]: row["by_kind"][PICTURE]["mAP"] for row in figures["rows"]}
    detection = figures["detection"]
    lost = 100 * (detection["AP50_before"] - detection["AP50"])
    return [
        _at_least("two passes against R-MAC, best match with best match", ap["crop"] / ap["rmac"], 1.3),
        _at_least("two passes against R-MAC's sum", ap["crop"] / ap["rmac_sum"], 2.0),
        _at_least("the teacher against the detector's own features, same boxes", ap["crop"] / ap["detector"], 3.0),
        _at_least("the one-pass student against the two-pass teacher", ap["student"] / ap["crop"], 0.9),
        _at_least("the same, product pictures as queries", of_pictures["student"] / of_pictures["crop"], 0.9),
        _at_most("points of AP50 that the distillation cost", lost, 2.0, "{:.1f}"),
        _at_most("minutes from nothing to this page", seconds / 60, MINUTES, "{:.1f}"),
    ]


def _at_least(text: str, value: float, wanted: float) -> dict[str, object]:
    return {"text": f"{text}: at least {wanted:g}", "found": f"{value:.2f}", "value": value, "holds": value >= wanted}


def _at_most(text: str, value: float, wanted: float, form: str) -> dict[str, object]:
    return {
        "text": f"{text}: at most {wanted:g}",
        "found": form.format(value),
        "value": value,
        "holds": value <= wanted,
    }
