"""Checking the rows of an index at an address."""

from __future__ import annotations

from collections import Counter

import numpy as np

from objemb.checks import DamagedIndexError
from objemb.index.generations import NEXT, PREVIOUS
from objemb.index.remote.header import Header, read_header
from objemb.index.remote.rows import COLUMNS, NO_BOX, corners, metadata_of, numbers, vectors_of
from objemb.index.storage.unit_vectors import check_unit
from objemb.index.stores.base import Store, StoreError

#: Rows that are read at once, and problems that are listed.
ROWS_AT_ONCE, LISTED = 10_000, 20


def problems_of(store: Store, header: Header) -> list[str]:
    """Read every row: vectors are finite and of unit length, boxes lie within their photos, metadata can be read, and
    every photo is there with all its boxes, once. At most :data:`LISTED` problems are told of each kind.

    A photo that is being replaced meanwhile may be reported. The next and the previous generation are read as well;
    their problems begin with their names.

    Args:
        store: The store.
        header: The generation that is open.
    """
    problems = _of_generation(store, header)
    for name in (NEXT, PREVIOUS):
        other = read_header(store, name)
        if other is None or other.generation == header.generation:
            continue
        try:
            problems += [f"{name}: {problem}" for problem in _of_generation(store, other)]
        except StoreError as error:
            if read_header(store, name) == other:  # else it was published or dropped meanwhile
                problems.append(f"{name}: {error}")
    return [f"{store.address}: {problem}" for problem in problems]


def _of_generation(store: Store, header: Header) -> list[str]:
    problems = list(store.problems(header.generation))
    versions: Counter[tuple[str, int]] = Counter()
    wanted: dict[tuple[str, int], int] = {}
    for rows in store.scan(header.generation, (*COLUMNS, "vector"), ROWS_AT_ONCE):
        vectors, boxes = vectors_of(rows), corners(rows)
        names = rows["image"].to_pylist()
        keys = list(zip(names, rows["number"].to_pylist(), strict=True))
        versions.update(keys)
        wanted.update(zip(keys, np.maximum(1, numbers(rows, "boxes")).tolist(), strict=True))
        for row in np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist():
            problems.append(f"{names[row]}: expected a finite vector, found another one in box {rows['box'][row]}")
        try:
            check_unit("rows", np.nan_to_num(vectors, nan=0, posinf=0, neginf=0))
        except ValueError as error:
            problems.append(str(error))
        sizes = np.stack([numbers(rows, "width"), numbers(rows, "height")] * 2, axis=1)
        inside = ((boxes >= 0) & (boxes <= sizes)).all(axis=1) & (boxes[:, :2] <= boxes[:, 2:]).all(axis=1)
        for row in np.flatnonzero(~inside & (numbers(rows, "box") != NO_BOX)).tolist():
            problems.append(f"{names[row]}: expected a box inside the photo, found {boxes[row].tolist()}")
        for text in rows["metadata"].unique().to_pylist():
            try:
                metadata_of(text)
            except DamagedIndexError as error:
                problems.append(str(error))
    torn = [key for key, count in versions.items() if count != wanted[key]]
    problems += [
        f"{image}: expected {wanted[image, number]} rows, found {versions[image, number]}; index the photo anew"
        for image, number in torn[:LISTED]
    ]
    several = [image for image, count in Counter(image for image, _ in versions).items() if count > 1]
    problems += [
        f"{image}: expected one version of the photo, found several; index it anew" for image in several[:LISTED]
    ]
    return problems
