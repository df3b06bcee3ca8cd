"""Results as a Markdown table: one row per method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def markdown_table(results: Sequence[Mapping[str, Any]]) -> str:
    """A table of results as ``Evaluation.to_json`` gives them, each with its ``method`` added.

    Scores are in percent, a dash where nothing could be scored. Columns that no result has are left out.
    """
    names = list(dict.fromkeys(name for result in results for name in result["scores"]))
    located = any(result["localisation"] for result in results)
    header = ["method", *names, *(["IoU", "CorLoc"] if located else []), "queries", "vectors/image", "bytes/image"]
    lines = [_line(header), _line(["---"] + ["---:"] * (len(header) - 1))]
    for result in results:
        boxes = result["localisation"] or {}
        cells = [result["method"].replace("|", "\\|")]
        cells += [_percent(result["scores"].get(name)) for name in names]
        cells += [_percent(boxes.get(name)) for name in ("mean_iou", "corloc") if located]
        cells += [_queries(result)]
        cells += [f"{result['storage']['vectors_per_image']:.1f}", f"{result['storage']['bytes_per_image']:,.0f}"]
        lines.append(_line(cells))
    return "\n".join(lines) + "\n"


def _queries(result: Mapping[str, Any]) -> str:
    skipped = f" ({result['skipped']} skipped)" if result["skipped"] else ""
    return f"{result['queries']}{skipped}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
