"""The graph of a class: photos, and edges between those that show the same thing."""

from __future__ import annotations

import numpy as np

from objemb.types import Int64Array


def connected_photos(count: int, pairs: Int64Array) -> list[Int64Array]:
    """The connected components of a graph.

    Args:
        count: Number of photos.
        pairs: int64 ``(E, 2)``: edges between photos.

    Returns:
        Photos of each component, int64 ascending; the largest component first, of equally large ones the one with the
        lowest photo. A photo without edges is a component of its own.
    """
    parents = list(range(count))

    def root(photo: int) -> int:
        while parents[photo] != photo:
            parents[photo] = parents[parents[photo]]
            photo = parents[photo]
        return photo

    for first, second in pairs.tolist():
        low, high = sorted((root(first), root(second)))
        parents[high] = low  # so that a root is the lowest photo of its component
    roots = np.array([root(photo) for photo in range(count)], np.int64)
    order = np.argsort(roots, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(roots[order])) + 1) if count else []
    return sorted(groups, key=lambda group: (-len(group), int(group[0])))


def chosen_views(groups: list[Int64Array], smallest_view: int | None) -> list[Int64Array]:
    """The components to keep.

    Args:
        groups: As :func:`connected_photos` returns them.
        smallest_view: Keep every component of at least that many photos; None for the largest one alone, if it has at
            least two photos.
    """
    if smallest_view is None:
        return [group for group in groups[:1] if len(group) > 1]
    return [group for group in groups if len(group) >= smallest_view]
