"""The contract of a benchmark."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from objemb.registry import Plugin


class Benchmark(Plugin, ABC):
    """Reads what a user downloaded. Constructor arguments are the options of its command.

    Attributes:
        layout: Which files go where below the root folder, and in words where a user gets them.
    """

    kind = "datasets.benchmarks"
    layout: ClassVar[str]

    @property
    def title(self) -> str:
        """The name of the set, which says what differs from the benchmark as its paper has it."""
        return self.registry_name

    @property
    def variant(self) -> str:
        """What the options add to the name of the file, such as ``-full``; empty for the benchmark itself."""
        return ""

    @abstractmethod
    def missing(self, root: Path) -> list[str]:
        """A line for each file or folder that has to be there and is not; a look at the folders, nothing is read."""

    @abstractmethod
    def convert(self, root: Path) -> dict[str, object]:
        """The evaluation set, as :mod:`objemb.datasets.evaluation_set` describes it, with files relative to ``root``.

        Raises:
            BadGroundTruthError: The ground truth contradicts itself or the images. The message names the file and its
                entries.
        """
