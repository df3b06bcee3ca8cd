"""One table of the main metric of each method on each set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from objemb.evaluation.report import NOTHING, escaped, score_text, share_text, share_title, table
from objemb.evaluation.shares import Result

#: Text of a cell whose method failed on the set; the error is below the table.
FAILED = "failed"


def matrix(results: Sequence[Result], figures: Mapping[str, str]) -> dict[str, object]:
    """The main figure of each method on each set.

    Args:
        results: Results with ``method``, ``set``, and ``scores`` or an ``error``.
        figures: The main figure of each set, such as ``mAP medium``, by the name of the set, in the order of the
            columns; empty for a set that could not be opened.

    Returns:
        JSON-ready: ``figures`` as given, ``methods`` in their order, and ``cells``: by method and set ``{"score"}``
        (0 to 1, None if no query counts), with its ``share`` ``of`` a reference if there is one, or ``{"error"}``.
    """
    cells: dict[str, dict[str, object]] = {}
    for result in results:
        name = result["set"]
        cells.setdefault(result["method"], {})[name] = _measured(result, figures.get(name, ""))
    return {"figures": dict(figures), "methods": list(cells), "cells": cells}


def matrix_markdown(matrix: Result) -> str:
    """The table as Markdown, followed by the errors of cells that failed."""
    figures: Mapping[str, str] = matrix["figures"]
    header = ["method", *(escaped(f"{name} ({figure})" if figure else name) for name, figure in figures.items())]
    rows = []
    for method in matrix["methods"]:
        cells = {name: matrix["cells"][method].get(name) for name in figures}
        rows.append([escaped(method), *(_cell(cell, figures[name]) for name, cell in cells.items())])
        if of := next((cell["of"] for cell in cells.values() if cell and "of" in cell), None):
            shares = [share_text((cell or {}).get("share")) for cell in cells.values()]
            rows.append([share_title(method, of), *shares])
    failures = [
        f"- {escaped(method)} on {escaped(name)}: {escaped(cell['error'])}\n"
        for method in matrix["methods"]
        for name, cell in matrix["cells"][method].items()
        if "error" in cell
    ]
    return table(header, rows) + ("\n" + "".join(failures) if failures else "")


def _measured(result: Result, figure: str) -> dict[str, object]:
    if "error" in result:
        return {"error": result["error"]}
    shares = result.get("share")
    compared = {"share": shares["scores"].get(figure), "of": shares["of"]} if shares else {}
    return {"score": result["scores"].get(figure), **compared}


def _cell(cell: Result | None, figure: str) -> str:
    if cell is None:
        return NOTHING
    return FAILED if "error" in cell else score_text(figure, cell["score"])
