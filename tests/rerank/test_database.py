from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from objemb.rerank import _database as module
from objemb.rerank._database import Database
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


def test_rows_of_an_image() -> None:
    data = database([X, Y], [], [X])
    assert [data.rows(i) for i in "012"] == [slice(0, 2), slice(2, 2), slice(2, 3)]
    with pytest.raises(KeyError):
        data.rows("3")


def test_depth_and_empty_cases() -> None:
    data = database([X], [Y])
    assert [len(r) for r in data.search([query(X), query(), query(X, Y)], 1)] == [1, 0, 1]
    assert data.search([], 5) == []
    assert [len(r) for r in Database.of([], 2).search([query(X), query()], 5)] == [0, 0]
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
    Database(**good)
    with pytest.raises(ValueError, match=message):
        Database(**{**good, **change})


def test_of_an_index(tmp_path: Path) -> None:
    images = [described(name, seed, price=seed) for seed, name in enumerate("abcd")]
    index = new(tmp_path / "one", *images)
    single = Database.of_index(index)
    assert not single.vectors.flags.owndata, "a single segment stays in its file"
    asked = [described("q", 9), described("r", 2)]
    assert [[(h.image, h.score, h.box) for h in r] for r in single.search(asked, 4)] == [
        [(h.image, h.score, h.box) for h in r] for r in index.search_many(asked, 4)
    ]
    with index.writer() as writer:
        writer.add(described("e", 5))
        writer.add(described("f", 6, count=0))
    index.delete(["b"])
    joined = Database.of_index(index)
    assert joined.images == ("a", "c", "d", "e")
    assert np.bincount(joined.items).tolist() == [3, 3, 3, 3]
    assert [[(h.image, h.score, h.box) for h in r] for r in joined.search(asked, 4)] == [
        [(h.image, h.score, h.box) for h in r] for r in index.search_many(asked, 4)
    ]
    assert Database.of_index(index, "price > 1").images == ("c", "d")
    assert len(Database.of_index(index, "label = bottle").vectors) == len(index.find("label = bottle"))
    assert len(Database.of_index(new(tmp_path / "none")).images) == 0
    half = Database.of_index(new(tmp_path / "half", *images, dtype="float16"))
    assert half.vectors.dtype == np.float32
    assert half.dim == DIM
