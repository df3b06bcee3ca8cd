"""Every executor keeps to the contract of its kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from objemb import registry
from objemb.search.executors.base import Executor, executor_of
from tests.contracts.made import build, every
from tests.search.executors.workers import Double, broken


def results(executor: Executor, tasks: list[bytes]) -> list[bytes]:
    return sorted(executor.map(Double, tasks, threads=1, accelerated=False))


def check(executor: Executor, folder: Path) -> None:
    """The contract, on processes that are there: also called by the tests of an executor that needs a cluster."""
    assert results(executor, []) == []
    # a task whose process dies is tried again, but not forever
    once, always = (f"die {folder / file} {times}".encode() for file, times in (("once", 1), ("always", 99)))
    assert results(executor, [b"a", always, b"b", once, b"c", b"d"]) == [b"aa", b"bb", b"cc", b"dd", once + once]
    assert (folder / "once").read_text() == "x"
    assert len((folder / "always").read_text()) < 9
    # errors of a worker are those of the job
    with pytest.raises(FileNotFoundError, match="no model"):
        results(executor, [b"fail model"])
    with pytest.raises(LookupError, match="worker 0 of none"):
        list(executor.map(broken, [b"a"], threads=1, accelerated=False))


@every("search.executors")
class TestExecutors:
    def test_the_contract(self, name: str, tmp_path: Path) -> None:
        if name != "ray":  # its contract is checked on the cluster of its own tests
            check(build("search.executors", name, tmp_path), tmp_path)

    def test_a_place_that_is_wrong(self, name: str) -> None:
        assert registry.load(Executor, name).expected.startswith(name)
        with pytest.raises(ValueError, match=f"--on: expected .* such as {name}"):
            executor_of(f"{name}=somewhere:else")
