"""Results as pictures: precision against recall, and mAP by the size of the object and by the number of regions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from objemb.evaluation import plots
from objemb.evaluation.buckets import SIZES
from objemb.evaluation.curves import RECALLS

PRECISION_RECALL, BY_SIZE, BY_REGIONS = "precision_recall.png", "map_by_size.png", "map_by_regions.png"

Result = Mapping[str, Any]


def draw_results(results: Sequence[Result], folder: Path, title: str) -> list[Path]:
    """Draw what results hold; pictures of an earlier run that nothing is drawn for are removed.

    Args:
        results: Each with its ``method`` and, where they were measured, ``precision_recall``, ``by_size`` and
            ``by_regions``.
        folder: Where the pictures go.
        title: Of the set.

    Returns:
        The pictures.
    """
    drawn = []
    for name, draw in ((PRECISION_RECALL, _precision_recall), (BY_SIZE, _by_size), (BY_REGIONS, _by_regions)):
        figure, axes = plots.new_figure()
        if draw(axes[0, 0], results, title):
            plots.save(figure, folder / name)
            drawn.append(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)
    return drawn


def _precision_recall(axis: Any, results: Sequence[Result], title: str) -> bool:
    curves = {
        r["method"]: {"": list(zip(RECALLS.tolist(), r["precision_recall"], strict=True))}
        for r in results
        if r.get("precision_recall")
    }
    plots.lines(axis, title, curves, x_label="recall", y_label="interpolated precision", top=1, marks=False)
    return bool(curves)


def _by_size(axis: Any, results: Sequence[Result], title: str) -> bool:
    measured = [r for r in results if r.get("by_size")]
    bars = {r["method"]: [_percent(r["by_size"][size]["mAP"]) for size in SIZES] for r in measured}
    known = any(math.isfinite(value) for values in bars.values() for value in values)
    if known:
        labels = [_places(size, measured) for size in SIZES]
        plots.bars(axis, f"{title}: by the object's share of the photo", bars, labels, y_label="mAP (%)", top=100)
        plots.legend_below(axis, 2)  # with one method, too: it says which
    return known


def _by_regions(axis: Any, results: Sequence[Result], title: str) -> bool:
    curves = {
        r["method"]: {"": [(p["max_regions"], 100 * p["score"]) for p in r["by_regions"] if p["score"] is not None]}
        for r in results
        if r.get("by_regions")
    }
    figures = {p["figure"] for r in results for p in r.get("by_regions") or ()}
    label = f"{' '.join(sorted(figures))} (%)"
    plots.lines(axis, title, curves, x_label="most regions per photo", y_label=label, doubling=True)
    return any(curve[""] for curve in curves.values())


def _percent(share: float | None) -> float:
    return math.nan if share is None else 100 * share


def _places(size: str, results: Sequence[Result]) -> str:
    """The label of a bucket, with its number of queries where all methods have the same."""
    counts = {r["by_size"][size]["queries"] for r in results}
    return f"{size}\n({counts.pop()} queries)" if len(counts) == 1 else size
