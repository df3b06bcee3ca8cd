"""Results as Markdown tables: one row per method."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from objemb.datasets.protocols import NO_SHARES
from objemb.evaluation.shares import Result

#: Text of a cell without a value.
NOTHING = "-"


def markdown_table(results: Sequence[Result]) -> str:
    """A table of results of ``Evaluation.to_json``, each with its ``method``, and its ``cost`` if known.

    Scores are in percent, with a dash for a missing value. Columns that no result has are left out. A result with only
    an ``error`` becomes a row with a note, and a result with shares of a reference has a second row.
    """
    measured = [result for result in results if "error" not in result]
    names = list(dict.fromkeys(name for result in measured for name in result["scores"]))
    columns: dict[str, Callable[[Result], str]] = {name: _score(name) for name in names}
    if any(result["localisation"] for result in measured):
        columns |= {"IoU": _located("mean_iou"), "CorLoc": _located("corloc")}
    if any(_box_recall(result) is not None for result in measured):
        columns["box recall"] = lambda result: percent(_box_recall(result))
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
        if shares := result.get("share"):
            rows.append(
                [
                    share_title(result["method"], shares["of"]),
                    *(share_text(shares["scores"].get(column)) for column in columns),
                ]
            )
    return table(["method", *columns], rows)


def part_table(results: Sequence[Result], part: str) -> str:
    """A table of mAP and P@1 of groups of queries or positives; empty if no result has any.

    Args:
        results: Results of evaluations, optionally with shares of a reference.
        part: ``by_kind``, ``by_query_size`` or ``by_object_size``.

    Returns:
        The table, in percent, with the number of queries in brackets; groups without queries in all results are left
        out.
    """

    def cell(figures: Result) -> str:
        return f"{percent(figures['mAP'])} / {percent(figures['P@1'])} ({figures['queries']})"

    def shares(figures: Result) -> str:
        return f"{share_text(figures['mAP'])} / {share_text(figures['P@1'])}"

    return _group_table(results, part, "queries", cell, shares)


def localisation_table(results: Sequence[Result]) -> str:
    """A table of IoU and CorLoc in percent by the size of the object, with the number of boxes in brackets; empty if no
    result has any."""

    def cell(figures: Result) -> str:
        return f"{percent(figures['mean_iou'])} / {percent(figures['corloc'])} ({figures['boxes']})"

    return _group_table(results, "by_object_size", "boxes", cell)


def _group_table(
    results: Sequence[Result],
    part: str,
    count: str,
    cell: Callable[[Result], str],
    shares: Callable[[Result], str] | None = None,
) -> str:
    """A table with a column for each group of a part that is not empty in all results."""
    measured = [result for result in results if result.get(part)]
    groups = [g for g in dict.fromkeys(g for r in measured for g in r[part]) if _any_counted(measured, part, g, count)]
    if not groups:
        return ""
    rows = []
    for result in measured:
        of_groups = [result[part].get(group, {}) for group in groups]
        rows.append([escaped(result["method"]), *(cell(f) if f.get(count) else NOTHING for f in of_groups)])
        if shares is not None and (found := (result.get("share") or {}).get(part)):
            title = share_title(result["method"], result["share"]["of"])
            rows.append([title, *(shares(found[g]) if g in found else NOTHING for g in groups)])
    return table(["method", *map(escaped, groups)], rows)


def _any_counted(results: Sequence[Result], part: str, group: str, count: str) -> bool:
    return any(result[part].get(group, {}).get(count) for result in results)


def region_table(results: Sequence[Result]) -> str:
    """A table of mAP in percent by the maximum number of regions per photo, with the vectors per image; empty if no
    result has any."""
    measured = [result for result in results if result.get("by_regions")]
    most = sorted({point["max_regions"] for r in measured for point in r["by_regions"]})
    rows = []
    for result in measured:
        points = {p["max_regions"]: p for p in result["by_regions"]}
        of_counts = [points.get(m) for m in most]
        cells = [NOTHING if p is None else f"{percent(p['score'])} ({p['vectors_per_image']:.1f})" for p in of_counts]
        rows.append([escaped(result["method"]), *cells])
    return table(["method", *(f"{m} regions" for m in most)], rows) if rows else ""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose first column is text and whose others are numbers."""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "".join("| " + " | ".join(cells) + " |\n" for cells in (header, rule, *rows))


def escaped(text: str) -> str:
    """A text escaped for a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def percent(share: float | None) -> str:
    """A share of 1 in percent."""
    return NOTHING if share is None else f"{100 * share:.1f}"


def score_text(name: str, value: float | None) -> str:
    """The value of a metric: in percent if it is between 0 and 1 by definition, otherwise unchanged."""
    if value is None or name.partition(" ")[0] not in NO_SHARES:
        return percent(value)
    return f"{value:.2f}"


def share_title(method: str, of: str) -> str:
    """The first cell of a row with shares."""
    return escaped(f"{method}: share of {of}")


def share_text(value: float | None) -> str:
    """The text of a share of the reference's value."""
    return NOTHING if value is None else f"{value:.3f}"


def _score(name: str) -> Callable[[Result], str]:
    return lambda result: score_text(name, result["scores"].get(name))


def _located(name: str) -> Callable[[Result], str]:
    return lambda result: percent((result["localisation"] or {}).get(name))


def _box_recall(result: Result) -> float | None:
    return (result.get("coverage") or {}).get("recall")


def _cost(name: str, form: str) -> Callable[[Result], str]:
    def cell(result: Result) -> str:
        value = (result.get("cost") or {}).get(name)
        return NOTHING if value is None else format(value, form)

    return cell


def _queries(result: Result) -> str:
    skipped = f" ({result['skipped']} skipped)" if result["skipped"] else ""
    return f"{result['queries']}{skipped}"
