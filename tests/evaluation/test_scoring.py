from __future__ import annotations

import math

import numpy as np
import pytest

from objemb.datasets.evaluation_set import SetEntry
from objemb.datasets.protocols import PROTOCOLS
from objemb.evaluation.ranks import UNRANKED, RankedItems
from objemb.evaluation.retrieval_task import RetrievalTask
from objemb.evaluation.scoring import Guesses, listed_items, locate, score

IMAGES = tuple(SetEntry(f"{n}.jpg", (name,)) for n, name in enumerate(["cup", "tea", "cup", "cup"]))


def ranking(*items: int, boxes: list[tuple[float, ...]] | None = None, of: int = 4) -> RankedItems:
    """All items, of which some are ranked in this order."""
    places, at = np.full(of, UNRANKED), np.full((of, 4), np.nan, np.float32)
    places[list(items)] = np.arange(len(items))
    if items:
        at[list(items)] = 0 if boxes is None else boxes
    return RankedItems(np.arange(of), places, np.zeros(of, np.float32), at)


def test_scores_by_hand() -> None:
    queries = (
        SetEntry("q.jpg", ("cup",)),
        SetEntry("0.jpg", ("cup",)),
        SetEntry("q.jpg", ("none",)),
        SetEntry("r.jpg", ("tea",)),
    )
    task = RetrievalTask("image", IMAGES, queries)
    found = score(task, [ranking(1, 0, 2, 3), ranking(0, 2, 1, 3), ranking(0, 1, 2, 3), ranking()], {0, 1, 2})
    first = (0 + 1 / 2 + 1 / 2 + 2 / 3 + 2 / 3 + 3 / 4) / 6  # cups at ranks 1, 2, 3
    second = (1 + 1 + 1 / 2 + 2 / 3) / 4  # its own photo is taken out: cups at ranks 0, 2
    assert found.means["mAP"] == pytest.approx((first + second) / 2)
    assert found.means["P@1"] == pytest.approx(0.5)
    assert found.means["P@5"] == pytest.approx((3 / 5 + 2 / 5) / 2)
    assert found.means["mP@5"] == pytest.approx((3 / 4 + 2 / 3) / 2)
    assert (found.queries, found.skipped) == (2, 2), "one has no positives, one could not be described"
    assert [q["first_rank"] for q in found.per_query] == [1, 0, None, None]
    assert [q["positives"] for q in found.per_query] == [3, 2, 0, 0]
    assert [q["average_precision"] for q in found.per_query] == [
        pytest.approx(first),
        pytest.approx(second),
        None,
        None,
    ]
    assert [r.tolist() for r in found.setups[""].ranks] == [[1, 2, 3], [0, 2], [], []]


def test_a_positive_without_a_row_counts_as_not_found() -> None:
    task = RetrievalTask("image", IMAGES, (SetEntry("q.jpg", ("cup",)),))
    assert score(task, [ranking(0, 2)], {0}).means["mAP"] == pytest.approx(2 / 3)


def test_nothing_to_score() -> None:
    found = score(RetrievalTask("image", IMAGES, ()), [], set())
    assert all(math.isnan(value) for value in found.means.values())
    assert (found.queries, found.skipped, found.per_query) == (0, 0, [])


def test_easy_medium_and_hard_by_hand() -> None:
    """methods.md 10.3: what is no positive of a setup is either junk, which leaves the list, or wrong."""
    images = tuple(SetEntry(f"{n}.jpg", ()) for n in range(6))
    lists = {"easy": ("3.jpg",), "hard": ("0.jpg", "4.jpg"), "junk": ("1.jpg",)}
    queries = (SetEntry("q.jpg", (), None, {}, lists), SetEntry("r.jpg", (), None, {}, {"hard": ("2.jpg",)}))
    task = RetrievalTask("image", images, queries, PROTOCOLS["revisited"])
    assert [items.tolist() for items in listed_items(task)] == [[0, 1, 3, 4], [2]]
    order = ranking(0, 1, 2, 3, 4, 5, of=6)
    found = score(task, [order, order], {0, 1})
    easy = 1 / 2 * (0 + 1 / 2)  # without 0, 1 and 4 the list is 2, 3, 5: the positive is at rank 1
    medium = ((1 + 1) + (1 / 2 + 2 / 3) + (2 / 3 + 3 / 4)) / 6  # 0, 2, 3, 4, 5: ranks 0, 2, 3
    hard = ((1 + 1) + (1 / 2 + 2 / 3)) / 4  # 0, 2, 4, 5: ranks 0, 2
    other = 1 / 2 * (0 + 1 / 3)  # rank 2, medium and hard; the second query has no easy image
    assert found.means["mAP easy"] == pytest.approx(easy)
    assert found.means["mAP medium"] == pytest.approx((medium + other) / 2)
    assert found.means["mAP hard"] == pytest.approx((hard + other) / 2)
    assert found.means["mP@1 medium"] == pytest.approx((1 + 0) / 2)
    assert found.means["mP@5 medium"] == pytest.approx((3 / 4 + 1 / 3) / 2)
    assert found.means["mP@10 hard"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert {name: setup.queries for name, setup in found.setups.items()} == {"easy": 1, "medium": 2, "hard": 2}
    assert (found.queries, found.skipped) == (2, 0)
    assert found.per_query[1]["setups"]["easy"] == {"average_precision": None, "first_rank": None, "positives": 0}
    assert found.per_query[0]["average_precision"] == pytest.approx(medium)


def test_on_oxford_the_querys_own_photo_counts() -> None:
    images = tuple(SetEntry(f"{n}.jpg", ()) for n in range(4))
    lists = {"good": ("0.jpg",), "ok": ("3.jpg",), "junk": ("1.jpg",)}
    task = RetrievalTask("image", images, (SetEntry("0.jpg", ("hall",), (0, 0, 5, 5), {}, lists),), PROTOCOLS["oxford"])
    found = score(task, [ranking(0, 1, 2, 3)], {0})
    assert found.means["mAP"] == pytest.approx(((1 + 1) + (1 / 2 + 2 / 3)) / 4)


def test_ukbench_counts_the_first_four() -> None:
    images = tuple(SetEntry(f"{n}.jpg", ("a" if n < 4 else "b",)) for n in range(6))
    task = RetrievalTask("image", images, (SetEntry("1.jpg", ("a",)), SetEntry("5.jpg", ("b",))), PROTOCOLS["ukbench"])
    found = score(task, [ranking(1, 4, 0, 5, 2, 3, of=6), ranking(5, 4, 0, 1, 2, 3, of=6)], {0, 1})
    assert found.means["N-S"] == pytest.approx((2 + 2) / 2)


def test_recall_leaves_the_query_out() -> None:
    task = RetrievalTask("image", IMAGES, (SetEntry("0.jpg", ("cup",)),), PROTOCOLS["recall"])
    assert score(task, [ranking(0, 1, 2, 3)], {0}).means == {"R@1": 0, "R@10": 1, "R@100": 1, "R@1000": 1}


def test_gap_ranks_the_guesses_of_all_queries() -> None:
    queries = tuple(SetEntry(f"q{n}.jpg", (name,)) for n, name in enumerate(["cup", "tea", "cup", "unknown"]))
    task = RetrievalTask("image", IMAGES, queries, PROTOCOLS["recognition"])
    guesses = Guesses(np.array([0.9, 0.2, 0.5, 0.7]), np.array([True, True, False, False]))
    found = score(task, [ranking(0, 1, 2, 3)] * 4, {0, 1, 2, 3}, guesses)
    assert found.means["GAP"] == pytest.approx((1 + 2 / 4) / 3)
    with pytest.raises(ValueError, match="guesses: expected the best image"):
        score(task, [ranking(0, 1, 2, 3)] * 4, {0, 1, 2, 3})


def test_localisation_of_true_positives() -> None:
    objects = (
        SetEntry("0.jpg", ("cup",), (0, 0, 10, 10)),
        SetEntry("0.jpg", ("cup",), (20, 0, 30, 10)),
        SetEntry("0.jpg", ("tea",), (0, 0, 30, 10)),
        SetEntry("2.jpg", ("cup",), (0, 0, 10, 10)),
    )
    task = RetrievalTask("image", IMAGES, (SetEntry("q.jpg", ("cup",)), SetEntry("0.jpg", ("cup",))))
    boxes = [(20, 0, 30, 10), (5, 0, 10, 10), (0, 0, 9, 9), (0, 0, 5, 5)]
    # photo 0: on the second cup; photo 1: not relevant; photo 2: IoU 0.81; photo 3: no true box
    first = ranking(0, 1, 2, 3, boxes=boxes)
    second = ranking(0, 2, boxes=[(0, 0, 1, 1), (0, 0, 10, 2)])  # its own photo is left out; IoU 0.2
    found = locate(task, [first, second], objects)
    assert found.ious.tolist() == pytest.approx([1, 0.81, 0.2])
    assert (found.queries.tolist(), found.items.tolist()) == ([0, 0, 1], [0, 2, 2])
    assert found.truths[0].tolist() == [20, 0, 30, 10]
    assert found.figures.mean_iou == pytest.approx((1 + 0.81 + 0.2) / 3)
    assert found.figures.corloc == pytest.approx(2 / 3)
    assert len(locate(task, [ranking(), ranking()], objects)) == 0
    assert locate(task, [ranking(), ranking()], objects).figures.boxes == 0
