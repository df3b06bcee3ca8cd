"""Bar charts, line plots and histograms as PNG or JPEG files, with matplotlib."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from objemb.disk import replacing
from objemb.types import AnyArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes  # modules that draw take it from here
    from matplotlib.figure import Figure


#: Size of a panel in inches.
WIDTH, HEIGHT = 4.6, 3.7
#: Width of a group of bars as a share of its space.
FILLED = 0.8
#: Characters of a title that fit over a panel.
TITLE_WIDTH = 46
#: Shares of the height of a panel: a line of labels below it, and the gap between labels and legend.
LINE_SHARE, LEGEND_GAP = 0.055, 0.05
#: Line styles, with their markers.
STYLES = ("-o", "--x", ":s", "-.^")


def new_figure(rows: int = 1, columns: int = 1) -> tuple[Figure, AnyArray]:
    """An empty figure of ``rows x columns`` panels; no display is needed.

    Returns:
        The figure, for :func:`save`, and its axes, an object array ``(rows, columns)``.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'objemb[train]'") from error
    figure = Figure(figsize=(columns * WIDTH, rows * HEIGHT), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def save(figure: Figure, file: str | Path) -> None:
    """Write a PNG file, or a JPEG if the name ends in ``.jpg``, replacing any earlier one; equal figures give equal
    bytes."""
    path = Path(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        if path.suffix == ".jpg":
            figure.savefig(partial, dpi=100, format="jpg", pil_kwargs={"quality": 85})
        else:
            figure.savefig(partial, dpi=100, format="png", metadata={"Software": None})


def bars(
    axis: Axes,
    title: str,
    groups: Mapping[str, Sequence[float]],
    labels: Sequence[str],
    *,
    y_label: str = "",
    top: float | None = None,
    digits: int = 1,
) -> None:
    """Groups of bars side by side, with their values on top.

    Args:
        axis: A panel of :func:`new_figure`.
        title: Title of the panel.
        groups: A value for each label, by the name of the group; the legend shows the names if there are several.
        labels: Labels of the x axis.
        y_label: Label of the y axis.
        top: Upper end of the y axis; None to fit the values.
        digits: Decimals of the values.
    """
    for name, values in groups.items():
        if len(values) != len(labels):
            raise ValueError(f"bars {name!r}: expected {len(labels)} values, one per label, found {len(values)}")
    places, width = np.arange(len(labels)), FILLED / max(1, len(groups))
    for number, (name, values) in enumerate(groups.items()):
        drawn = axis.bar(places - FILLED / 2 + (number + 0.5) * width, values, width, label=name)
        axis.bar_label(drawn, fmt=f"%.{digits}f", fontsize=8)
    _entitle(axis, title)
    axis.set_ylabel(y_label)
    axis.set_xticks(places, labels, fontsize=8)
    axis.margins(y=0.12)
    if top is not None:
        axis.set_ylim(min(0.0, *(v for values in groups.values() for v in values)), 1.08 * top)
    if len(groups) > 1:
        legend_below(axis, max((label.count("\n") + 1 for label in labels), default=1))


def lines(
    axis: Axes,
    title: str,
    curves: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]],
    *,
    x_label: str = "",
    y_label: str = "",
    top: float | None = None,
    doubling: bool = False,
    marks: bool = True,
) -> None:
    """Curves, with a marker at each point.

    Args:
        axis: A panel of :func:`new_figure`.
        title: Title of the panel.
        curves: ``(x, y)`` points from left to right, by two names: the first gives the colour, the second the line
            style. A curve without points is not drawn.
        x_label: Label of the x axis.
        y_label: Label of the y axis.
        top: Upper end of the y axis, which then starts at 0; None to fit the values.
        doubling: Whether x doubles from point to point, for a logarithmic axis with the values of x as ticks.
        marks: Whether to draw markers; False if there are many points.
    """
    names = dict.fromkeys(name for of_colour in curves.values() for name in of_colour)
    styles = {name: STYLES[number % len(STYLES)] for number, name in enumerate(names)}
    ticks: set[float] = set()
    for number, (first, of_colour) in enumerate(curves.items()):
        for second, points in of_colour.items():
            if points:
                xs, ys = zip(*points, strict=True)
                label = ", ".join(filter(None, (first, second)))
                size = 5 if marks else 0
                axis.plot(xs, ys, styles[second], color=f"C{number % 10}", markersize=size, label=label)
                ticks.update(xs)
    _entitle(axis, title)
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    axis.grid(alpha=0.3)
    if top is not None:
        axis.set_ylim(0, 1.08 * top)
    if doubling and ticks:
        axis.set_xscale("log", base=2)
        axis.set_xticks(sorted(ticks), [f"{tick:g}" for tick in sorted(ticks)], fontsize=8)
        axis.minorticks_off()
    if ticks:
        axis.legend(fontsize=7)


def legend_below(axis: Axes, lines_of_labels: int) -> None:
    """A legend below the labels of the x axis, because there is no space between bars."""
    place = (0.5, -LEGEND_GAP - lines_of_labels * LINE_SHARE)
    axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=place, ncols=3)


def _entitle(axis: Axes, title: str) -> None:
    """A title above a panel, in as many lines as needed; words longer than a line are broken."""
    axis.set_title("\n".join(textwrap.wrap(title, TITLE_WIDTH)), fontsize=11)


def histogram(axis: Axes, title: str, counts: Sequence[int], low: float, high: float, *, y_label: str = "") -> None:
    """Counts of equal bins from ``low`` to ``high``."""
    edges = np.linspace(low, high, len(counts) + 1)
    axis.bar(edges[:-1], counts, width=np.diff(edges), align="edge")
    _entitle(axis, title)
    axis.set_ylabel(y_label)


def remark(axis: Axes, title: str, text: str) -> None:
    """A panel with a text instead of a plot."""
    _entitle(axis, title)
    axis.text(0.5, 0.5, text, ha="center", va="center", transform=axis.transAxes)
    axis.set_axis_off()
