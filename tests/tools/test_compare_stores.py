from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from objemb.datasets.evaluation_set import SetEntry
from objemb.evaluation.described import DescribedTask
from objemb.evaluation.metrics import average_precision
from objemb.evaluation.retrieval_task import RetrievalTask
from objemb.index.collection import ImageCollection
from objemb.index.remote.conformance import DIM, photo
from objemb.structures import ImageRows, SearchResult
from tools import compare_stores
from tools.compare_stores import compared, table_of


@pytest.fixture
def task() -> RetrievalTask:
    """Bottles are the closest and the farthest of three photos."""
    database = tuple(SetEntry(f"{n}.jpg", ("bottle",) if n != 1 else ()) for n in range(3))
    return RetrievalTask("image", database, (SetEntry("query.jpg", ("bottle",), (0.0, 0.0, 9.0, 9.0)),))


@pytest.fixture
def described() -> DescribedTask:
    query, other = np.eye(2, DIM, dtype=np.float32)
    rows = [np.stack([query * np.float32(c) + other * np.float32((1 - c * c) ** 0.5), other]) for c in (0.9, 0.8, 0.6)]
    database = [photo(f"{n}.jpg", vectors) for n, vectors in enumerate(rows)]
    return DescribedTask(*(ImageRows.from_descriptors(d, DIM) for d in (database, [photo("query.jpg", query[None])])))


def test_lists_and_means(task: RetrievalTask, described: DescribedTask, tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    addresses = [("folder", f"{tmp_path}/folder"), ("lance", f"lance:{tmp_path}/lance")]
    found = compared("set", task, described, addresses)
    assert [(c.store, c.photos, c.rows, c.lists, c.same) for c in found] == [
        ("folder", 3, 6, 1, 1),
        ("lance", 3, 6, 1, 1),
    ]
    assert [c.mean for c in found] == [average_precision([0, 2], 2)] * 2
    assert table_of(found[1:]).splitlines()[2] == f"| set | lance | 3 | 6 | 1 | 1 | {100 * found[0].mean:.4f} |"


def test_a_list_that_differs(
    task: RetrievalTask, described: DescribedTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers_of = compare_stores.answers_of

    def without_first(index: ImageCollection, described: DescribedTask, photos: int) -> list[SearchResult]:
        if index.address.endswith("good"):
            return answers_of(index, described, photos)
        index.delete(["0.jpg"])
        index.refresh()
        return answers_of(index, described, photos)

    monkeypatch.setattr(compare_stores, "answers_of", without_first)
    found = compared("set", task, described, [(name, f"{tmp_path}/{name}") for name in ("good", "bad")])
    assert [(c.same, c.mean) for c in found] == [(1, average_precision([0, 2], 2)), (0, average_precision([1], 2))]
