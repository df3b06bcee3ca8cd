"""Results as Markdown tables: one row per method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from objemb.evaluation.buckets import SIZES
from objemb.evaluation.protocols import NO_SHARES

#: What stands where nothing could be measured.
NOTHING = "-"

Result = Mapping[str, Any]


def markdown_table(results: Sequence[Result]) -> str:
    """A table of results as ``Evaluation.to_json`` gives them, each with its ``method``, and its ``cost`` where known.

    Scores are in percent, a dash where nothing could be measured. Columns that no result has are left out. A result
    that has but an ``error`` becomes a row that says so.
    """
    measured = [result for result in results if "error" not in result]
    names = list(dict.fromkeys(name for result in measured for name in result["scores"]))
    columns: dict[str, Callable[[Result], str]] = {name: _score(name) for name in names}
    if any(result["localisation"] for result in measured):
        columns |= {"IoU": _located("mean_iou"), "CorLoc": _located("corloc")}
    columns["queries"] = _queries
    columns["vectors/image"] = lambda result: f"{result['storage']['vectors_per_image']:.1f}"
    columns["bytes/image"] = lambda result: f"{result['storage']['bytes_per_image']:,.0f}"
    if any(result.get("cost") for result in measured):
        columns |= {"ms/image": _cost("milliseconds", ".1f"), "x network": _cost("ratio", ".2f")}
    rows = []
    for result in results:
        failed = "error" in result
        cells = [NOTHING] * len(columns) if failed else [cell(result) for cell in columns.values()]
        note = f" (failed: {result['error']})" if failed else ""
        rows.append([escaped(f"{result['method']}{note}"), *cells])
    return table(["method", *columns], rows)


def size_table(results: Sequence[Result]) -> str:
    """Figures by the size of the object, empty where no result has any.

    In percent; in brackets the queries of a mAP, or the boxes of an IoU.
    """
    measured = [result for result in results if result.get("by_size")]
    if not measured:
        return ""
    located = any(of_size.get("boxes") for r in measured for of_size in r["by_size"].values())
    figures = {"mAP": "queries", **({"IoU": "boxes", "CorLoc": "boxes"} if located else {})}
    header = ["method", *(f"{figure} {size}" for size in SIZES for figure in figures)]
    rows = [
        [escaped(r["method"]), *(_counted(r["by_size"][size], f, n) for size in SIZES for f, n in figures.items())]
        for r in measured
    ]
    return table(header, rows)


def region_table(results: Sequence[Result]) -> str:
    """mAP in percent by the most regions per photo, with the vectors per image; empty where no result has it."""
    measured = [result for result in results if result.get("by_regions")]
    most = sorted({point["max_regions"] for r in measured for point in r["by_regions"]})
    rows = []
    for result in measured:
        points = {p["max_regions"]: p for p in result["by_regions"]}
        found = [points.get(m) for m in most]
        cells = [NOTHING if p is None else f"{percent(p['score'])} ({p['vectors_per_image']:.1f})" for p in found]
        rows.append([escaped(result["method"]), *cells])
    return table(["method", *(f"{m} regions" for m in most)], rows) if rows else ""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose first column is text and whose others are numbers."""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "".join("| " + " | ".join(cells) + " |\n" for cells in (header, rule, *rows))


def escaped(text: str) -> str:
    """A text that stays in its cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def percent(share: float | None) -> str:
    """A share of 1 in percent."""
    return NOTHING if share is None else f"{100 * share:.1f}"


def score_text(name: str, value: float | None) -> str:
    """The value of a figure: in percent where it is a share of 1, else as it is."""
    if value is None or name.partition(" ")[0] not in NO_SHARES:
        return percent(value)
    return f"{value:.2f}"


def _score(name: str) -> Callable[[Result], str]:
    return lambda result: score_text(name, result["scores"].get(name))


def _located(name: str) -> Callable[[Result], str]:
    return lambda result: percent((result["localisation"] or {}).get(name))


def _cost(name: str, form: str) -> Callable[[Result], str]:
    def cell(result: Result) -> str:
        value = (result.get("cost") or {}).get(name)
        return NOTHING if value is None else format(value, form)

    return cell


def _counted(of_size: Mapping[str, Any], figure: str, count: str) -> str:
    key = {"mAP": "mAP", "IoU": "mean_iou", "CorLoc": "corloc"}[figure]
    value = of_size.get(key)
    return NOTHING if value is None else f"{percent(value)} ({of_size[count]})"


def _queries(result: Result) -> str:
    skipped = f" ({result['skipped']} skipped)" if result["skipped"] else ""
    return f"{result['queries']}{skipped}"
