"""Ground truth as lists of images and positions in them: the ``gnd_*.pkl`` and ``gnd_*.mat`` of many benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from objemb import checks
from objemb.datasets.benchmarks._problems import BadGroundTruthError, Problems
from objemb.types import Int64Array
from objemb.weights.pickled_arrays import UnreadablePickleError, read_pickled_arrays


@dataclass(frozen=True)
class ListedQuery:
    """A query.

    Attributes:
        name: Of its image.
        box: Four numbers as they are written.
        lists: Names of database images, by grade.
    """

    name: str
    box: tuple[float, ...]
    lists: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class GroundTruth:
    """The ground truth in a file.

    Attributes:
        file: The file.
        images: Names of the database images, in their order.
        queries: The queries, in their order.
    """

    file: Path
    images: tuple[str, ...]
    queries: tuple[ListedQuery, ...]


def read_ground_truth(file: Path, grades: Sequence[str]) -> GroundTruth:
    """Read a dict of ``imlist``, ``qimlist`` and ``gnd``, which has a dict of ``bbx`` and a list per grade per query.

    Lists contain positions in ``imlist``, from 0 in pickles, from 1 in MATLAB files. A pickle is not run: it may hold
    plain values and arrays, and nothing else.

    Raises:
        BadGroundTruthError: The file is damaged or not of this form; the message names its first wrong entries.
        ImportError: The file is a MATLAB file, but SciPy is not installed.
    """
    first = 1 if file.suffix == ".mat" else 0
    data = _read_mat(file) if first else _read_pickle(file)
    if not isinstance(data, Mapping):
        raise BadGroundTruthError(f"{file}: expected a dict of imlist, qimlist and gnd, found {type(data).__name__}")
    absent = [key for key in ("imlist", "qimlist", "gnd") if key not in data]
    if absent:
        raise BadGroundTruthError(f"{file}: expected the keys {checks.listed(absent)}, found {checks.listed(data)}")
    with Problems(file) as problems:
        images, asked = (_names(problems, key, data[key]) for key in ("imlist", "qimlist"))
        entries = _entries(problems, data["gnd"], len(asked))
        problems.once("imlist", {"imlist": images})
        problems.check()  # later problems would be consequences
        reader = _Reader(problems, images, tuple(grades), first)
        queries = tuple(
            reader.query(f"gnd[{n}] ({q})", q, e) for n, (q, e) in enumerate(zip(asked, entries, strict=True))
        )
    return GroundTruth(file, images, queries)


def _read_pickle(file: Path) -> object:
    try:
        return read_pickled_arrays(file)
    except UnreadablePickleError as error:
        raise BadGroundTruthError(str(error)) from error


def _read_mat(file: Path) -> object:
    from objemb.datasets.benchmarks._matlab import read_matlab

    return read_matlab(file)


class _Reader:
    def __init__(self, problems: Problems, images: tuple[str, ...], grades: tuple[str, ...], first: int) -> None:
        self.problems, self.images, self.grades, self.first = problems, images, grades, first

    def query(self, entry: str, name: str, row: Mapping[str, object]) -> ListedQuery:
        lists = {grade: self._names(f"{entry}: {grade}", row.get(grade)) for grade in self.grades}
        self.problems.once(entry, lists)
        return ListedQuery(name, self._box(entry, row.get("bbx")), lists)

    def _names(self, entry: str, value: object) -> tuple[str, ...]:
        numbers = _numbers(value)
        if numbers is None:
            self.problems.add(entry, f"expected a list of whole numbers, found {_short(value)}")
            return ()
        last = self.first + len(self.images) - 1
        wrong = numbers[(numbers < self.first) | (numbers > last)]
        if len(wrong):
            odd = int(wrong[0])
            other = {last + 1: " (does it count from 1?)", self.first - 1: " (does it count from 0?)"}
            hint = other.get(odd, "") if (odd > last) == (self.first == 0) else ""
            self.problems.add(entry, f"expected numbers from {self.first} to {last}, found {odd}{hint}")
            return ()
        return tuple(self.images[n - self.first] for n in numbers.tolist())

    def _box(self, entry: str, value: object) -> tuple[float, ...]:
        try:
            return tuple(np.asarray(value, dtype=float).ravel().tolist())
        except (TypeError, ValueError):
            self.problems.add(f"{entry}: bbx", f"expected four numbers x1 y1 x2 y2, found {_short(value)}")
            return ()


def _names(problems: Problems, key: str, value: object) -> tuple[str, ...]:
    rows = value.tolist() if isinstance(value, np.ndarray) else value
    names = [rows] if isinstance(rows, str) else list(rows) if isinstance(rows, (list, tuple)) else None
    if not names or not all(isinstance(name, str) and name for name in names):
        problems.add(key, f"expected a list of names of images, found {_short(value)}")
        return ()
    return tuple(name.strip() for name in names)


def _entries(problems: Problems, value: object, count: int) -> list[Mapping[str, object]]:
    rows = value.tolist() if isinstance(value, np.ndarray) else [value] if isinstance(value, Mapping) else value
    if not isinstance(rows, (list, tuple)) or not all(isinstance(row, Mapping) for row in rows):
        problems.add("gnd", f"expected a list with a dict per query, found {_short(value)}")
        return []
    if len(rows) != count:
        problems.add("gnd", f"expected {count} entries, as many as qimlist has, found {len(rows)}")
    return list(rows)


def _numbers(value: object) -> Int64Array | None:
    """Whole numbers, from a list, an array of any numbers, or a single one; None for anything else."""
    if value is None:
        return None
    try:
        array = np.atleast_1d(np.asarray(value)).ravel()
        if array.size == 0:
            return np.zeros(0, dtype=np.int64)
        whole = array.astype(np.int64)
    except (TypeError, ValueError, OverflowError):
        return None
    return whole if array.dtype.kind in "iuf" and np.array_equal(whole, array) else None


def _short(value: object) -> str:
    text = "nothing" if value is None else f"{type(value).__name__} {value!r}"
    return text if len(text) <= 80 else f"{text[:77]}..."
