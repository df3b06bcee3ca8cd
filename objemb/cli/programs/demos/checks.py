"""The results that the demo is expected to show, checked against those of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from objemb.datasets.writing import IN_PHOTO, PICTURE

#: Most minutes that the demo may take on two cores.
MINUTES = 10


def check(figures: Mapping[str, Any], seconds: float) -> list[dict[str, object]]:
    """One entry per check: ``text``, ``measured``, ``value``, ``holds``.

    Args:
        figures: Rows and detection of :func:`objemb.cli.programs.demos.figures.measure`.
        seconds: Running time of all steps.
    """
    ap = {row["key"]: row["by_kind"][IN_PHOTO]["mAP"] for row in figures["rows"]}
    of_pictures = {row["key"]: row["by_kind"][PICTURE]["mAP"] for row in figures["rows"]}
    detection = figures["detection"]
    lost = 100 * (detection["AP50_before"] - detection["AP50"])
    return [
        _at_least("mAP of two passes over R-MAC, both by best match", ap["crop"] / ap["rmac"], 1.3),
        _at_least("mAP of two passes over R-MAC as a sum", ap["crop"] / ap["rmac_sum"], 2.0),
        _at_least("mAP of the teacher over the detector's features, same boxes", ap["crop"] / ap["detector"], 3.0),
        _at_least("mAP of the one-pass student over the two-pass teacher", ap["student"] / ap["crop"], 0.9),
        _at_least("the same for product pictures as queries", of_pictures["student"] / of_pictures["crop"], 0.9),
        _at_most("points of AP50 lost by the distillation", lost, 2.0, "{:.1f}"),
        _at_most("minutes from scratch to this page", seconds / 60, MINUTES, "{:.1f}"),
    ]


def _at_least(text: str, value: float, wanted: float) -> dict[str, object]:
    return {
        "text": f"{text}: at least {wanted:g}",
        "measured": f"{value:.2f}",
        "value": value,
        "holds": value >= wanted,
    }


def _at_most(text: str, value: float, wanted: float, form: str) -> dict[str, object]:
    return {
        "text": f"{text}: at most {wanted:g}",
        "measured": form.format(value),
        "value": value,
        "holds": value <= wanted,
    }
