from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from objemb.rerank import _database as module
from objemb.rerank._database import DenseDatabase, IndexDatabase
from tests.index.made import DIM, described, new
from tests.rerank.made import database, query, random_database

X, Y = (1.0, 0.0), (0.0, 1.0)


def test_the_best_pair_of_each_image() -> None:
    data = database([X, (0.6, 0.8)], [], [(0.8, 0.6)])
    (found,) = data.search([query((0.8, 0.6), Y)], 10)
    assert [(h.image, round(h.score, 6)) for h in found] == [("2", 1), ("0", 0.96)]
    assert found[1].box == (10, 0, 20, 10)
    assert found[1].query_box == (0, 0, 10, 10)
    assert found.query_boxes == ((0, 0, 10, 10), (10, 0, 20, 10))


def test_rows_of_images() -> None:
    data = database([X, Y], [], [X])
    rows = data.rows_of_images(["2", "1", "0", "2"])
    assert rows.images == ("2", "1", "0", "2")
    assert rows.vectors.tolist() == [[1, 0], [1, 0], [0, 1], [1, 0]]
    assert rows.items.tolist() == [0, 2, 2, 3]
    assert rows.boxes[:, 0].tolist() == [0, 0, 10, 0]
    assert (rows.sizes == 100).all()
    assert len(data.rows_of_images([]).vectors) == 0
    with pytest.raises(KeyError):
        data.rows_of_images(["0", "3"])


def test_depth_and_empty_cases() -> None:
    data = database([X], [Y])
    assert [len(r) for r in data.search([query(X), query(), query(X, Y)], 1)] == [1, 0, 1]
    assert data.search([], 5) == []
    assert [len(r) for r in DenseDatabase.of([], 2).search([query(X), query()], 5)] == [0, 0]
    assert len(data.search([query()], 5)[0].hits) == 0
    with pytest.raises(ValueError, match="depth: expected an integer of 1 or more, found 0"):
        data.search([query(X)], 0)


def test_few_places_at_once_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    data = random_database(30)
    queries = [described(str(n), n, count=n) for n in range(5)]
    expected = [r.to_json() for r in data.search(queries, 7)]
    monkeypatch.setattr(module, "PLACES_AT_ONCE", 10)
    assert [r.to_json() for r in data.search(queries, 7)] == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vectors": np.zeros((2, 3))}, r"vectors: expected float32 \(R, D\), found float64 \(2, 3\)"),
        ({"boxes": np.zeros((1, 4), np.float32)}, r"boxes: expected shape \(2, 4\), found \(1, 4\)"),
        ({"items": np.array([0])}, r"items: expected int64 \(2,\), found int64 \(1,\)"),
        ({"items": np.array([1, 0])}, "items: expected ascending numbers below 2, found others"),
        ({"items": np.array([0, 2])}, "items: expected ascending numbers below 2, found others"),
        ({"images": ("a", "a")}, "images: expected each id once, found one twice"),
    ],
)
def test_mistakes_are_named(change: dict, message: str) -> None:
    good = {
        "images": ("a", "b"),
        "vectors": np.zeros((2, 3), np.float32),
        "items": np.array([0, 1]),
        "boxes": np.zeros((2, 4), np.float32),
    }
    DenseDatabase(**good)
    with pytest.raises(ValueError, match=message):
        DenseDatabase(**{**good, **change})


def test_of_an_index(tmp_path: Path) -> None:
    images = [described(name, seed, price=seed) for seed, name in enumerate("abcd")]
    index = new(tmp_path / "one", *images)
    single = IndexDatabase(index)
    assert not single.dense().vectors.flags.owndata, "a single segment stays in its file"
    assert single.dense() is single.dense()
    check_like_dense(single, "cbad")
    with index.writer() as writer:
        writer.add(described("e", 5))
        writer.add(described("f", 6, count=0))
    index.delete(["b"])
    joined = IndexDatabase(index)
    assert joined.dense().images == ("a", "c", "d", "e")
    assert np.bincount(joined.dense().items).tolist() == [3, 3, 3, 3]
    check_like_dense(joined, "ecda")
    assert len(joined.rows_of_images(["f"]).vectors) == 0
    for image in "bg":
        with pytest.raises(KeyError, match=image):
            joined.rows_of_images(["a", image])
    filtered = IndexDatabase(index, "price > 1")
    assert filtered.dense().images == ("c", "d")
    check_like_dense(filtered, "dc")
    assert filtered.rows_of_images(["a", "c"]).items.tolist() == [1, 1, 1]
    left_out = IndexDatabase(index, exclude=["c", "it's not there"])
    assert left_out.dense().images == ("a", "d", "e")
    check_like_dense(left_out, "dea")
    by_label = IndexDatabase(index, "label = bottle", exclude="a")
    assert len(by_label.dense().vectors) == len(set(index.find("label = bottle")) - {"a"})
    check_like_dense(by_label, by_label.dense().images)
    nothing = IndexDatabase(new(tmp_path / "none"))
    assert (nothing.image_count, nothing.dense().images) == (0, ())
    assert [len(r) for r in nothing.search([described("q", 9)], 4)] == [0]
    half = IndexDatabase(new(tmp_path / "half", *images, dtype="float16"))
    assert half.dense().vectors.dtype == np.float32
    assert half.dim == DIM
    check_like_dense(half, "cbad")
    with pytest.raises(ValueError, match="depth: expected an integer of 1 or more, found 0"):
        half.search([], 0)


def test_the_structure_of_an_index_is_asked_as_in_a_plain_search(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    index = new(tmp_path, *(described(str(n), n) for n in range(20)))
    asked = [described("q", 30), described("r", 2)]
    with pytest.raises(ValueError, match="expected a search structure, found none"):
        IndexDatabase(index, exact=False).search(asked, 4)
    index.build_structure({"name": "ivf_sq8", "lists": 4})
    for exact in (False, True):
        found = IndexDatabase(index, exact=exact).search(asked, 4)
        assert [[h.score for h in r] for r in found] == [
            [h.score for h in r] for r in index.search_many(asked, 4, exact=exact)
        ]
        assert len(index._searcher._structures) == 1, "loaded by the first search"


def check_like_dense(database: IndexDatabase, images: Sequence[str]) -> None:
    """Searches and the rows of images are those of all rows in memory."""
    asked = [described("q", 9), described("r", 2), described("s", 3, count=0)]
    answers = [
        [[(h.image, h.score, h.box, h.query_box) for h in r] for r in searched.search(asked, 4)]
        for searched in (database, database.dense())
    ]
    assert answers[0] == answers[1]
    rows, expected = (searched.rows_of_images(list(images)) for searched in (database, database.dense()))
    assert rows.images == expected.images == tuple(images)
    assert rows.vectors.dtype == np.float32
    for column in ("vectors", "items", "boxes"):
        np.testing.assert_array_equal(getattr(rows, column), getattr(expected, column))
