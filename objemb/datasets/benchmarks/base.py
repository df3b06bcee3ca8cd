"""The contract of benchmarks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from objemb.registry import Plugin


class Benchmark(Plugin, ABC):
    """Reads a downloaded benchmark. Constructor arguments are the options of its command.

    Attributes:
        layout: A description of the expected files below the root folder, and of where to get them.
    """

    kind = "datasets.benchmarks"
    layout: ClassVar[str]

    @property
    def title(self) -> str:
        """The name of the set, which mentions deviations from the benchmark of the paper."""
        return self.registry_name

    @property
    def variant(self) -> str:
        """The suffix of the file name for the options, such as ``-full``; empty for the benchmark itself."""
        return ""

    @abstractmethod
    def missing(self, root: Path) -> list[str]:
        """A line for each required file or folder that is missing; files are not read."""

    @abstractmethod
    def convert(self, root: Path) -> dict[str, object]:
        """The evaluation set, as :mod:`objemb.datasets.evaluation_set` describes it, with files relative to ``root``.

        Raises:
            BadGroundTruthError: The ground truth contradicts itself or the images. The message names the file and its
                entries.
        """
