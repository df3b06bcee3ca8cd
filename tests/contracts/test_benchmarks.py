"""Every benchmark keeps to the contract of its kind."""

from __future__ import annotations

from pathlib import Path

from objemb.datasets.benchmarks.base import Benchmark
from tests.contracts.made import build, every


@every("datasets.benchmarks")
class TestBenchmarks:
    def test_says_what_is_missing_and_where_it_goes(self, name: str, tmp_path: Path) -> None:
        benchmark: Benchmark = build("datasets.benchmarks", name, tmp_path)
        assert len(benchmark.missing(tmp_path)) > 0
        assert not list(tmp_path.iterdir())
        assert benchmark.layout.startswith("Expected below the folder")
        assert all(len(line) <= 120 for line in benchmark.layout.splitlines())
        assert (benchmark.title, benchmark.variant) == (name, "")
