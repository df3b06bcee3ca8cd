"""The picture of a distillation card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from objemb.evaluation.plots import bars, histogram, new_figure, remark, save
from objemb.evaluation.sizes import SIZE_KEYS

#: What a panel says without figures.
NOT_TOLD = "not told by the\nvalidation data"


def draw_card(card: Mapping[str, Any], file: Path) -> None:
    """Draw cosines, retrieval and average precision, by size too, and times side by side.

    Args:
        card: What :func:`objemb.training.card.make_card` measured.
        file: A PNG file, which is replaced.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure, axes = new_figure(2, 4)
    histogram(axes[0, 0], "Cosine to the teacher", card["cosine"]["histogram"], -1, 1, y_label="boxes")
    rows = card["cosine"]["by_size"]
    means = {"cosine": [row["cosine"] for row in rows.values()]}
    bars(axes[0, 1], "Cosine by size (boxes)", means, _counted(rows, "boxes"), top=1.0, digits=2)
    by_size = card["retrieval_by_size"] or {}
    for axis, what in zip(axes[0, 2:], ("query", "object"), strict=True):
        _by_size(axis, f"mAP by size of the {what} (queries)", by_size.get(f"by_{what}_size"))
    _percents(axes[1, 0], "Retrieval of true boxes", card["retrieval"], ("mAP", "P@1"))
    detector = card["detector"] and {name: card["detector"][name] for name in ("before", "after")}
    _percents(axes[1, 1], "Detector before and after", detector, ("AP", "AP50", "AP75"))
    _detector_by_size(axes[1, 2], "AP by size", detector)
    times = card["milliseconds"]
    kinds = ("student, one pass", "detector and teacher")
    title = f"Time of a photo, ratio {times['ratio']:.2f}"
    bars(axes[1, 3], title, {"ms": [times[k] for k in kinds]}, kinds, y_label="milliseconds")
    save(figure, file)


def _percents(axis: Any, title: str, rows: Mapping[str, Mapping[str, float]] | None, names: Sequence[str]) -> None:
    """A group of bars for each row."""
    if not rows:
        remark(axis, title, NOT_TOLD)
        return
    groups = {
        name: [100 * row[name] for row in rows.values()] for name in names if all(name in r for r in rows.values())
    }
    bars(axis, title, groups, [name.replace(", ", ",\n") for name in rows], y_label="percent", top=100.0)


def _by_size(axis: Any, title: str, sizes: Mapping[str, Mapping[str, Any]] | None) -> None:
    """mAP of teacher and student side by side."""
    if not sizes:
        remark(axis, title, NOT_TOLD)
        return
    groups = {who: [100 * of_size[who]["mAP"] for of_size in sizes.values()] for who in ("teacher", "student")}
    labels = _counted({size: of_size["student"] for size, of_size in sizes.items()}, "queries")
    bars(axis, title, groups, labels, y_label="percent", top=100.0)


def _detector_by_size(axis: Any, title: str, rows: Mapping[str, Mapping[str, float]] | None) -> None:
    """AP before and after side by side, of the sizes that there are."""
    if not rows:
        remark(axis, title, NOT_TOLD)
        return
    sizes = {size: f"AP_{key}" for size, key in SIZE_KEYS.items() if all(f"AP_{key}" in row for row in rows.values())}
    groups = {name: [100 * row[key] for key in sizes.values()] for name, row in rows.items()}
    bars(axis, title, groups, list(sizes), y_label="percent", top=100.0)


def _counted(rows: Mapping[str, Mapping[str, float]], count: str) -> list[str]:
    return [f"{name}\n({row[count]:.0f})" for name, row in rows.items()]
