from __future__ import annotations

import math

import numpy as np
import pytest

from objemb.evaluation import scoring
from objemb.evaluation.described import Rows
from objemb.evaluation.protocol import Entry
from objemb.evaluation.scoring import Ranking, localise, rank_all, score
from objemb.evaluation.task import Task

IMAGES = tuple(Entry(f"{n}.jpg", (name,)) for n, name in enumerate(["cup", "tea", "cup", "cup"]))


def rows(vectors: np.ndarray, items: list[int]) -> Rows:
    boxes = np.arange(4 * len(items), dtype=np.float32).reshape(-1, 4)
    return Rows(vectors.astype(np.float32), np.array(items, dtype=np.int64), boxes)


def ranking(*items: int, boxes: list[tuple[float, ...]] | None = None) -> Ranking:
    found = np.zeros((len(items), 4), np.float32) if boxes is None else np.array(boxes, np.float32)
    return Ranking(np.array(items, dtype=np.int64), found)


@pytest.mark.parametrize("at_once", [1, 10, 1 << 20])
def test_rankings_are_complete_and_equal_the_slow_reference(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(scoring, "PLACES_AT_ONCE", at_once)
    random = np.random.default_rng(0)
    items = [0, 0, 1, 3, 3, 3, 4]  # item 2 could not be described
    database = rows(random.standard_normal((7, 5)), items)
    queries = rows(random.standard_normal((4, 5)), [0, 1, 1, 3])  # query 2 could not be described
    found = rank_all(database, queries, num_items=5, num_queries=4)
    for number, one in enumerate(found):
        mine = queries.vectors[queries.items == number]
        scores = {}
        for row, item in enumerate(items):
            for query in mine:
                scores[item] = max(scores.get(item, (-9.0, -1)), (float(database.vectors[row] @ query), row))
        expected = sorted(scores, key=lambda item: -scores[item][0])
        assert one.items.tolist() == expected
        assert one.boxes.tolist() == [database.boxes[scores[item][1]].tolist() for item in expected]


def test_rankings_of_nothing() -> None:
    none, one = rows(np.zeros((0, 5)), []), rows(np.ones((1, 5)), [0])
    assert rank_all(one, none, 1, 0) == []
    assert [r.items.tolist() for r in rank_all(none, one, 0, 1)] == [[]]
    assert [r.items.tolist() for r in rank_all(one, none, 1, 2)] == [[], []]


def test_scores_by_hand() -> None:
    queries = (Entry("q.jpg", ("cup",)), Entry("0.jpg", ("cup",)), Entry("q.jpg", ("none",)), Entry("r.jpg", ("tea",)))
    task = Task("image", IMAGES, queries)
    found = score(task, [ranking(1, 0, 2, 3), ranking(0, 2, 1, 3), ranking(0, 1, 2, 3), ranking()], {0, 1, 2})
    first = (0 + 1 / 2 + 1 / 2 + 2 / 3 + 2 / 3 + 3 / 4) / 6  # cups at ranks 1, 2, 3
    second = (1 + 1 + 1 / 2 + 2 / 3) / 4  # its own photo is taken out: cups at ranks 0, 2
    assert found.means["mAP"] == pytest.approx((first + second) / 2)
    assert found.means["P@1"] == pytest.approx(0.5)
    assert found.means["P@5"] == pytest.approx((3 / 5 + 2 / 5) / 2)
    assert found.means["mP@5"] == pytest.approx((3 / 4 + 2 / 3) / 2)
    assert (found.queries, found.skipped) == (2, 2), "one has no positives, one could not be described"
    assert [q["first_rank"] for q in found.per_query] == [1, 0, None, None]
    assert [q["average_precision"] for q in found.per_query] == [
        pytest.approx(first),
        pytest.approx(second),
        None,
        None,
    ]


def test_a_positive_without_a_row_counts_as_not_found() -> None:
    task = Task("image", IMAGES, (Entry("q.jpg", ("cup",)),))
    assert score(task, [ranking(0, 2)], {0}).means["mAP"] == pytest.approx(2 / 3)


def test_nothing_to_score() -> None:
    found = score(Task("image", IMAGES, ()), [], set())
    assert all(math.isnan(value) for value in found.means.values())
    assert (found.queries, found.skipped, found.per_query) == (0, 0, [])


def test_localisation_of_true_positives() -> None:
    objects = (
        Entry("0.jpg", ("cup",), (0, 0, 10, 10)),
        Entry("0.jpg", ("cup",), (20, 0, 30, 10)),
        Entry("0.jpg", ("tea",), (0, 0, 30, 10)),
        Entry("2.jpg", ("cup",), (0, 0, 10, 10)),
    )
    task = Task("image", IMAGES, (Entry("q.jpg", ("cup",)), Entry("0.jpg", ("cup",))))
    boxes = [(20, 0, 30, 10), (5, 0, 10, 10), (0, 0, 9, 9), (0, 0, 5, 5)]
    # photo 0: on the second cup; photo 1: not relevant; photo 2: IoU 0.81; photo 3: no true box
    first = ranking(0, 1, 2, 3, boxes=boxes)
    second = ranking(0, 2, boxes=[(0, 0, 1, 1), (0, 0, 10, 2)])  # its own photo is left out; IoU 0.2
    found = localise(task, [first, second], objects)
    assert found.boxes == 3
    assert found.mean_iou == pytest.approx((1 + 0.81 + 0.2) / 3)
    assert found.corloc == pytest.approx(2 / 3)
    assert localise(task, [ranking(), ranking()], objects).boxes == 0
