"""Common parts of the benchmarks of Google Landmarks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from objemb import checks
from objemb.datasets.benchmarks._problems import Problems
from objemb.datasets.benchmarks._tables import read_table
from objemb.datasets.benchmarks.base import Benchmark

#: Parts of the queries, with their values of the column ``Usage``.
USAGES = {"private": ("Private",), "public": ("Public",), "all": ("Private", "Public")}
KNOWN_USAGES = ("Private", "Public", "Ignored")


class LandmarkQueries(Benchmark):
    """A benchmark whose queries are divided into parts.

    Args:
        usage: Which queries: ``private`` (the paper's test split), ``public`` (its validation split) or ``all``.
    """

    def __init__(self, *, usage: str = "private") -> None:
        self.usage = checks.one_of("usage", usage, tuple(USAGES))

    @property
    def title(self) -> str:
        """The name of the set."""
        return super().title if self.usage == "private" else f"{super().title}, {self.usage} queries"

    @property
    def variant(self) -> str:
        """``-public``, ``-all``."""
        return "" if self.usage == "private" else f"-{self.usage}"


def find_table(root: Path, stem: str) -> Path | None:
    """The newest version of a table below the root: ``STEM_v2.1.csv`` before ``STEM_v2.csv`` before ``STEM.csv``."""
    files = sorted((*root.glob(f"{stem}.csv"), *root.glob(f"{stem}_v*.csv")), key=lambda file: file.stem)
    return files[-1] if files else None


def solution_rows(problems: Problems, file: Path, column: str, usage: str) -> Iterator[tuple[str, str, list[str]]]:
    """Line, query and the words in ``column`` of the rows of a solution that have the requested usage."""
    for entry, cells in read_table(problems, file, ("id", column, "Usage")):
        if cells["Usage"] not in KNOWN_USAGES:
            problems.add(entry, f"expected the usage Private, Public or Ignored, found {cells['Usage']!r}")
        elif cells["Usage"] in USAGES[usage]:
            words = cells[column].split()
            yield entry, cells["id"], [] if words == ["None"] else words
