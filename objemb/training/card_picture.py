"""The picture of a distillation card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from objemb.evaluation.plots import bars, histogram, new_figure, remark, save


def draw_card(card: Mapping[str, Any], file: Path) -> None:
    """Draw cosines, retrieval, average precision and times side by side.

    Args:
        card: What :func:`objemb.training.card.make_card` measured.
        file: A PNG file, which is replaced.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure, axes = new_figure(2, 3)
    histogram(axes[0, 0], "Cosine to the teacher", card["cosine"]["histogram"], -1, 1, y_label="boxes")
    titles = {"by_size": "area (COCO)", "by_share": "share of the photo"}
    for axis, (key, title) in zip(axes[0, 1:], titles.items(), strict=True):
        rows = card["cosine"][key]
        labels = [f"{name.replace(' to ', ' to' + chr(10))}\n({row['boxes']})" for name, row in rows.items()]
        means = {"cosine": [row["cosine"] for row in rows.values()]}
        bars(axis, f"Cosine by {title} (boxes)", means, labels, top=1.0, digits=2)
    _percents(axes[1, 0], "Retrieval of true boxes", card["retrieval"], ("mAP", "P@1"))
    detector = card["detector"] and {name: card["detector"][name] for name in ("before", "after")}
    _percents(axes[1, 1], "Detector before and after", detector, ("AP", "AP50", "AP75"))
    times = card["milliseconds"]
    kinds = ("student, one pass", "detector and teacher")
    title = f"Time of a photo, ratio {times['ratio']:.2f}"
    bars(axes[1, 2], title, {"ms": [times[k] for k in kinds]}, kinds, y_label="milliseconds")
    save(figure, file)


def _percents(axis: Any, title: str, rows: Mapping[str, Mapping[str, float]] | None, names: Sequence[str]) -> None:
    """A group of bars for each row."""
    if not rows:
        remark(axis, title, "not told by the\nvalidation data")
        return
    groups = {
        name: [100 * row[name] for row in rows.values()] for name in names if all(name in r for r in rows.values())
    }
    bars(axis, title, groups, [name.replace(", ", ",\n") for name in rows], y_label="percent", top=100.0)
