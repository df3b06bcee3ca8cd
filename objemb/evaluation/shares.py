"""Metrics relative to those of a reference: a student to its teacher, a fast method to an exact one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]

#: Parts of a result that hold metrics by name, and those that hold them by group of queries or positives.
SCORES, GROUPED = "scores", ("by_kind", "by_query_size", "by_object_size")
#: Metrics of a group that have shares.
OF_GROUPS = ("mAP", "P@1")


def share(value: float | None, reference: float | None) -> float | None:
    """``value / reference``; None if one of them is not known, or the reference is 0."""
    return None if value is None or not reference else value / reference


def with_shares(results: Sequence[Result], references: Mapping[str, str]) -> list[dict[str, object]]:
    """Results with their metrics as shares of those of a reference method on the same set.

    Args:
        results: Results of evaluations, with ``method``, ``set``, and metrics or an ``error``.
        references: The name of the reference of each method, by name. A method without a reference, or whose reference
            failed or was not measured, has no shares.

    Returns:
        The results, JSON-ready. Those with a reference have the key ``share``: ``of``, the name of the reference, and
        ``scores``, ``by_kind``, ``by_query_size`` and ``by_object_size`` as in the results, with the quotient instead
        of each metric; None if it is not known or the reference's is 0.
    """
    measured = {(r["set"], r["method"]): r for r in results if "error" not in r}
    completed = []
    for result in results:
        reference = measured.get((result["set"], references.get(result["method"], "")))
        compared = "error" not in result and reference is not None and reference is not result
        completed.append({**result, "share": _shares(result, reference)} if compared and reference else dict(result))
    return completed


def _shares(result: Result, reference: Result) -> dict[str, object]:
    parts: dict[str, object] = {SCORES: _quotients(result[SCORES], reference[SCORES], tuple(result[SCORES]))}
    for part in GROUPED:
        groups, of_reference = result.get(part), reference.get(part) or {}
        parts[part] = groups and {
            group: _quotients(figures, of_reference.get(group, {}), OF_GROUPS) for group, figures in groups.items()
        }
    return {"of": reference["method"], **parts}


def _quotients(figures: Result, of_reference: Result, names: Sequence[str]) -> dict[str, float | None]:
    return {name: share(figures.get(name), of_reference.get(name)) for name in names}
