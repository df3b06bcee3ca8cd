"""Methods on sets: one table of what each is worth on each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from objemb.evaluation.report import NOTHING, escaped, score_text, table

#: A cell whose method failed on the set; why stands below the table.
FAILED = "failed"


def matrix(results: Sequence[Mapping[str, Any]], figures: Mapping[str, str]) -> dict[str, Any]:
    """The main figure of each method on each set.

    Args:
        results: Each with its ``method``, its ``set``, and ``scores`` or an ``error``.
        figures: The figure that sums up each set, such as ``mAP medium``, by its name; empty where a set could not be
            opened. In this order they become columns.

    Returns:
        JSON-ready: ``figures`` as given, ``methods`` in their order, and ``cells``: by method and set ``{"score"}``
        (0 to 1, None where nothing counts) or ``{"error"}``.
    """
    cells: dict[str, dict[str, Any]] = {}
    for result in results:
        name = result["set"]
        cell = (
            {"error": result["error"]} if "error" in result else {"score": result["scores"].get(figures.get(name, ""))}
        )
        cells.setdefault(result["method"], {})[name] = cell
    return {"figures": dict(figures), "methods": list(cells), "cells": cells}


def matrix_markdown(found: Mapping[str, Any]) -> str:
    """The table for people, and below it what went wrong in which cell."""
    figures: Mapping[str, str] = found["figures"]
    header = ["method", *(escaped(f"{name} ({figure})" if figure else name) for name, figure in figures.items())]
    rows = [
        [escaped(method), *(_cell(found["cells"][method].get(name), figures[name]) for name in figures)]
        for method in found["methods"]
    ]
    failures = [
        f"- {escaped(method)} on {escaped(name)}: {escaped(cell['error'])}\n"
        for method in found["methods"]
        for name, cell in found["cells"][method].items()
        if "error" in cell
    ]
    return table(header, rows) + ("\n" + "".join(failures) if failures else "")


def _cell(cell: Mapping[str, Any] | None, figure: str) -> str:
    if cell is None:
        return NOTHING
    return FAILED if "error" in cell else score_text(figure, cell["score"])
