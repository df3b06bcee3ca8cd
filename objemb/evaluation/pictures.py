"""Plots of results: precision over recall, and mAP by size of query and object and by number of regions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from objemb.evaluation.metrics import RECALLS
from objemb.evaluation.shares import Result
from objemb.visualize import plots

if TYPE_CHECKING:
    from objemb.visualize.plots import Axes


PRECISION_RECALL, BY_REGIONS = "precision_recall.png", "map_by_regions.png"
BY_QUERY_SIZE, BY_OBJECT_SIZE = "map_by_query_size.png", "map_by_object_size.png"


def draw_results(results: Sequence[Result], folder: Path, title: str) -> list[Path]:
    """Draw all plots that the results have data for; other plots of an earlier run are removed.

    Args:
        results: Results with their ``method`` and, if measured, ``precision_recall``, ``by_query_size``,
            ``by_object_size`` and ``by_regions``.
        folder: Folder for the plots.
        title: Title of the set.

    Returns:
        The files of the plots.
    """
    drawn = []
    pictures: dict[str, Callable[[Axes, Sequence[Result], str], bool]] = {
        PRECISION_RECALL: _precision_recall,
        BY_QUERY_SIZE: partial(_by_size, "query"),
        BY_OBJECT_SIZE: partial(_by_size, "object"),
        BY_REGIONS: _by_regions,
    }
    for name, draw in pictures.items():
        figure, axes = plots.new_figure()
        if draw(axes[0, 0], results, title):
            plots.save(figure, folder / name)
            drawn.append(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)
    return drawn


def _precision_recall(axis: Axes, results: Sequence[Result], title: str) -> bool:
    curves = {
        r["method"]: {"": list(zip(RECALLS.tolist(), r["precision_recall"], strict=True))}
        for r in results
        if r.get("precision_recall")
    }
    plots.lines(axis, title, curves, x_label="recall", y_label="interpolated precision", top=1, marks=False)
    return bool(curves)


def _by_size(what: str, axis: Axes, results: Sequence[Result], title: str) -> bool:
    part = f"by_{what}_size"
    measured = [r for r in results if r.get(part)]
    sizes = list(dict.fromkeys(size for r in measured for size, of_size in r[part].items() if of_size["queries"]))
    bars = {r["method"]: [_percent(r[part][size]["mAP"]) for size in sizes] for r in measured}
    if sizes:
        labels = [_places(size, [r[part][size]["queries"] for r in measured]) for size in sizes]
        plots.bars(axis, f"{title}: by the side of the {what} in its photo", bars, labels, y_label="mAP (%)", top=100)
        plots.legend_below(axis, 2)  # even for a single method, to name it
    return bool(sizes)


def _by_regions(axis: Axes, results: Sequence[Result], title: str) -> bool:
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


def _places(size: str, queries: Sequence[int]) -> str:
    """The label of a size, with its number of queries if it is the same for all methods."""
    return f"{size}\n({queries[0]} queries)" if len(set(queries)) == 1 else size
