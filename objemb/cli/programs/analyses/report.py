"""An analysis as Markdown and as plots."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from objemb.cli.programs.analyses.run import Analysis
from objemb.cli.programs.analyses.settings import CLASSIFICATION, DETECTION, Score
from objemb.evaluation.paired import Difference
from objemb.visualize import plots


def analysis_markdown(analysis: Analysis) -> str:
    """The verdicts, then the tables of mAP in percent."""
    parts = [_conclusions(analysis), _layers(analysis)]
    if analysis.attention:
        parts.append(_attention(analysis))
    return "\n\n".join(parts) + "\n"


def draw_layers(analysis: Analysis, file: str | Path) -> None:
    """Plot mAP over dimension: a panel per layer, a colour per pooling, a line style per network.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure, axes = plots.new_figure(1, len(analysis.layers))
    top = max((y for _, y in _points(analysis.scores)), default=None)
    for axis, layer in zip(axes[0], analysis.layers, strict=True):
        here = [c for c in analysis.scores if c.layer == layer.name]
        curves = {
            setting: {
                n: _points(c for c in here if (c.setting.name, c.network) == (setting, n)) for n in _networks(here)
            }
            for setting in dict.fromkeys(c.setting.name for c in here)
        }
        plots.lines(axis, str(layer), curves, x_label="dimension", y_label="mAP in %", top=top, doubling=True)
    plots.save(figure, file)


def draw_attention(analysis: Analysis, file: str | Path) -> None:
    """Plot mAP by kind of regions at the largest dimension, a panel per pooling. Nothing is drawn at object level.

    Raises:
        ImportError: matplotlib is not installed.
    """
    poolings = list(dict.fromkeys(c.setting.pooling for c in analysis.attention))
    if not poolings:
        return
    figure, axes = plots.new_figure(1, len(poolings))
    for axis, pooling in zip(axes[0], poolings, strict=True):
        here = [c for c in analysis.attention if c.setting.pooling == pooling]
        most = max(c.dim for c in here)
        bars = {
            f"{c.setting.kind}\n{c.setting.matching}": 100 * (c.mean_precision or 0.0) for c in here if c.dim == most
        }
        plots.bars(axis, f"{pooling}, {most} dimensions", {"mAP": list(bars.values())}, list(bars), y_label="mAP in %")
        axis.tick_params(axis="x", labelrotation=60)
    plots.save(figure, file)


def _networks(scores: Iterable[Score]) -> list[str]:
    return list(dict.fromkeys(c.network for c in scores))


def _points(scores: Iterable[Score]) -> list[tuple[float, float]]:
    return [(c.dim, 100 * c.mean_precision) for c in scores if c.mean_precision is not None]


def _conclusions(analysis: Analysis) -> str:
    lines = ["| claim | verdict | difference of mAP in points, mean [95 % interval] |", "| --- | --- | --- |"]
    for conclusion in analysis.conclusions:
        figures = "; ".join(f"{name}: {_difference(d)}" for name, d in conclusion.figures.items())
        remark = f" ({conclusion.remark})" if conclusion.remark else ""
        lines.append(f"| {conclusion.claim} | **{conclusion.verdict}** | {figures}{remark} |")
    return "\n".join(lines)


def _layers(analysis: Analysis) -> str:
    """mAP of classification and detection by dimension, for each layer and pooling."""
    names = {layer.name: str(layer) for layer in analysis.layers}
    rows: dict[tuple[str, ...], dict[int, dict[str, float | None]]] = {}
    for c in analysis.scores:
        key = (names[c.layer], c.setting.name)
        rows.setdefault(key, {}).setdefault(c.dim, {})[c.network] = c.mean_precision
    scores = {
        key: {dim: f"{_percent(mean[CLASSIFICATION])} / {_percent(mean[DETECTION])}" for dim, mean in by_dim.items()}
        for key, by_dim in rows.items()
    }
    return "mAP, classification / detection:\n\n" + _table(("layer", "pooling"), scores)


def _attention(analysis: Analysis) -> str:
    rows: dict[tuple[str, ...], dict[int, str]] = {}
    for c in analysis.attention:
        key = (c.setting.pooling, c.setting.kind, c.setting.matching)
        rows.setdefault(key, {})[c.dim] = _percent(c.mean_precision)
    return f"mAP, classification, {analysis.layers[-1]}:\n\n" + _table(("pooling", "regions", "matching"), rows)


def _table(header: Sequence[str], rows: Mapping[tuple[str, ...], Mapping[int, str]]) -> str:
    dims = sorted({dim for by_dim in rows.values() for dim in by_dim})
    lines = [[*header, *map(str, dims)], ["---"] * len(header) + ["---:"] * len(dims)]
    lines += [[*key, *(by_dim.get(dim, "") for dim in dims)] for key, by_dim in rows.items()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _difference(difference: Difference) -> str:
    if math.isnan(difference.mean):
        return "-"
    low, high = (f"{100 * end:+.1f}" for end in (difference.low, difference.high))
    return f"{100 * difference.mean:+.1f} [{low}, {high}], {difference.queries} queries, {difference.groups} instances"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
