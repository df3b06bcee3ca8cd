from __future__ import annotations

import gc

import numpy as np
import pytest

from objemb.rerank import database_augmentation as module
from objemb.rerank.database_augmentation import DatabaseAugmentation
from tests.rerank.made import database, names, query, random_database, search

MINIMAL = {"top": 2}

X, Y = (1.0, 0.0), (0.0, 1.0)


def slow(vectors: np.ndarray, items: np.ndarray, top: int, weights: str, alpha: float, normalise: bool) -> np.ndarray:
    mixed = np.zeros_like(vectors)
    for i, vector in enumerate(vectors):
        others = sorted((j for j in range(len(vectors)) if items[j] != items[i]), key=lambda j: -(vectors[j] @ vector))
        total, divisor = vector.copy(), 1.0
        for rank, j in enumerate(others[:top]):
            weight = (top - rank) / top if weights == "rank" else max(0.0, float(vectors[j] @ vector)) ** alpha
            total, divisor = total + weight * vectors[j], divisor + weight
        mixed[i] = total / (np.linalg.norm(total) if normalise else divisor)
    return mixed


@pytest.mark.parametrize("numbers", [1, 1 << 24])
@pytest.mark.parametrize(("weights", "normalise"), [("rank", False), ("similarity", True), ("rank", True)])
def test_rows_as_the_loop_gives_them(
    weights: str, normalise: bool, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "NUMBERS", numbers)
    data = random_database(25)
    before = data.vectors.copy()
    step = DatabaseAugmentation(top=4, weights=weights, normalise=normalise)
    found = step.rerank(search(data, query(dim=8))).database
    assert found.vectors == pytest.approx(slow(data.vectors, data.items, 4, weights, 3.0, normalise), abs=1e-5)
    assert (data.vectors == before).all()
    assert found.images == data.images


def test_by_hand() -> None:
    data = database([X], [Y], [(0.6, 0.8)])
    found = DatabaseAugmentation(top=2).rerank(search(data, query(X)))
    # the first: itself 1, (0.6, 0.8) 1, (0, 1) a half
    assert found.database.vectors[0] == pytest.approx([1.6 / 2.5, 1.3 / 2.5])
    assert [hit.score for hit in found.results[0]] == pytest.approx([0.64, 0.44, 0.44])


def test_rows_of_the_same_image_are_no_neighbours() -> None:
    data = database([X, X], [Y])
    found = DatabaseAugmentation(top=1).rerank(search(data, query(X))).database
    assert found.vectors == pytest.approx(np.array([[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]))
    alone = DatabaseAugmentation(top=3, normalise=True).rerank(search(database([X, Y]), query(X))).database
    assert alone.vectors.tolist() == [[1, 0], [0, 1]]


def test_a_database_is_augmented_once_and_let_go() -> None:
    step, data = DatabaseAugmentation(top=1), database([X], [Y])
    first = step.rerank(search(data, query(X))).database
    assert step.rerank(search(data, query(Y), query())).database is first
    assert len(step._made) == 1
    del data
    gc.collect()
    assert len(step._made) == 0


def test_nothing_and_mistakes() -> None:
    assert DatabaseAugmentation().rerank(search(database(), query(X))).results[0].hits == ()
    assert names(DatabaseAugmentation().rerank(search(database([X]), query(X)))) == ["0"]
    with pytest.raises(ValueError, match="weights: expected one of 'rank', 'similarity', found 'ranks'"):
        DatabaseAugmentation(weights="ranks")
