from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from objemb.datasets.evaluation_set import SetEntry
from objemb.evaluation.by_size import (
    PartFigures,
    by_kind,
    by_object_size,
    by_query_size,
    localisation_by_size,
    positive_shares,
)
from objemb.evaluation.metrics import average_precision
from objemb.evaluation.ranks import UNRANKED, RankedItems
from objemb.evaluation.retrieval_task import RetrievalTask
from objemb.evaluation.scoring import Located, SetupRanks
from objemb.evaluation.sizes import SIZES, WHOLE_PHOTO
from objemb.structures import ImageRows

NAN = float("nan")
#: More than any set here has.
IMAGES = 20


def of_query(places: list[int]) -> RankedItems:
    count = len(places)
    return RankedItems(
        np.arange(count), np.array(places), np.zeros(count, np.float32), np.zeros((count, 4), np.float32)
    )


def task(positives: int, junk: int = 0, queries: int = 1) -> RetrievalTask:
    """Queries for which the first items are positives, and the last come from their own photo."""
    database = [SetEntry(f"{n}.png", ("cup",)) for n in range(positives)] + [SetEntry("q.png", ("cup",))] * junk
    return RetrievalTask("image", tuple(database), (SetEntry("q.png", ("cup",)),) * queries)


def rows(items: list[int], size: tuple[int, int] = (100, 200)) -> ImageRows:
    count = len(items)
    sizes = np.tile(np.array(size, dtype=np.int64), (count, 1))
    images = tuple(map(str, range(IMAGES)))
    return ImageRows(
        images,
        np.zeros((count, 2), np.float32),
        np.array(items, dtype=np.int64),
        np.zeros((count, 4), np.float32),
        sizes,
    )


def test_positives_of_other_sizes_are_junk() -> None:
    # small ones at places 2 and 5, a large one at 1, one of unknown size at 4, junk at 0: small ones rank 0 and 2
    shares = [np.array([0.05, 0.09, 0.5, NAN])]
    found = by_object_size(task(4, junk=1), [of_query([2, 5, 1, 4, 0])], shares, {0})
    assert found["<9 %"] == (pytest.approx(average_precision([0, 2], 2)), 1.0, 1)
    assert found["38-75 %"] == (1.0, 1.0, 1)
    assert found["9-19 %"].queries == 0
    assert math.isnan(found["9-19 %"].mean_average_precision)
    assert found["9-19 %"].to_json() == {"mAP": None, "P@1": None, "queries": 0}


def test_positives_without_rows_count_and_queries_without_rows_do_not() -> None:
    shares = [np.array([0.5, 0.5])] * 2
    found = by_object_size(task(2, queries=2), [of_query([0, UNRANKED])] * 2, shares, {1})
    assert found["38-75 %"] == (0.5, 1.0, 1)
    assert by_object_size(task(0, queries=0), [], [], set())["<9 %"].queries == 0


def test_against_a_slow_reference() -> None:
    random = np.random.default_rng(0)
    one = task(8, junk=2, queries=20)
    places = [np.where(random.random(10) < 0.2, UNRANKED, random.choice(30, 10, replace=False)) for _ in one.queries]
    of_classes = (0.05, 0.1, 0.2, 0.5, 1.0)
    shares = [random.choice([*of_classes, NAN], 8) for _ in one.queries]
    found = by_object_size(one, [of_query(p.tolist()) for p in places], shares, range(20))
    for share, name in zip(of_classes, SIZES, strict=True):
        values = [_slow(p, s, share) for p, s in zip(places, shares, strict=True)]
        assert found[name].mean_average_precision == pytest.approx(np.nanmean(values))


def _slow(places: np.ndarray, shares: np.ndarray, share: float) -> float:
    """The list with junk and the other positives taken out of it."""
    out = {int(p) for p, s in zip(places, [*shares, NAN, NAN], strict=True) if s != share}
    listed = [place for place in range(30) if place not in out]
    kept = [listed.index(p) for p, s in zip(places, shares, strict=False) if s == share and p != UNRANKED]
    return average_precision(np.array(kept, dtype=np.int64), int((shares == share).sum()))


def test_sizes_and_kinds_of_queries_by_hand() -> None:
    """Photos of 100 x 200 pixels; AP by the trapezoid rule: rank 0 of one positive is 1, rank 1 is (0 + 1/2) / 2."""
    queries = (
        SetEntry("0.png", ("cup",), (0, 0, 18, 18), {"kind": "in photo"}),  # 9 % of the side: the smallest class
        SetEntry("1.png", ("cup",), (0, 0, 10, 80), {"kind": "in photo"}),  # 40 %
        SetEntry("2.png", ("cup",), (20, 10, 80, 90)),  # 40 %
        SetEntry("3.png", ("cup",), None, {"kind": "picture"}),
        SetEntry("4.png", ("cup",), None, {"kind": "picture"}),
        SetEntry("5.png", ("cup",), (0, 0, 10, 10), {"kind": "in photo"}),  # could not be described: no rows
    )
    ranks = [np.array(r, dtype=np.int64) for r in ([0], [1], [0], [0], [1], [])]
    main = SetupRanks(ranks, [1, 1, 1, 1, 1, 0])
    one = RetrievalTask("image", (), queries)
    asked = rows([0, 1, 2, 3, 4])
    found = by_query_size(one, main, asked)
    assert list(found) == [*SIZES, WHOLE_PHOTO]
    assert found["<9 %"] == (1.0, 1.0, 1)
    assert found["38-75 %"] == (pytest.approx((0.25 + 1) / 2), 0.5, 2)
    assert found[WHOLE_PHOTO] == (pytest.approx((1 + 0.25) / 2), 0.5, 2)
    assert sum(of_size.queries for of_size in found.values()) == 5
    kinds = by_kind(one, main)
    assert list(kinds) == ["in photo", "picture"]
    assert kinds["in photo"] == (pytest.approx((1 + 0.25) / 2), 0.5, 2)
    assert kinds["picture"] == found[WHOLE_PHOTO]
    unknown = by_query_size(one, main, replace(asked, sizes=None))
    assert (unknown["<9 %"].queries, unknown[WHOLE_PHOTO].queries) == (0, 2)


def test_no_queries() -> None:
    none = RetrievalTask("image", (), ())
    assert by_kind(none, SetupRanks([], [])) == {}
    nothing = by_query_size(none, SetupRanks([], []), rows([]))
    assert [of_size.queries for of_size in nothing.values()] == [0] * 6
    assert PartFigures.of([], []).queries == 0


def test_shares_of_the_largest_box_in_a_photo() -> None:
    objects = [
        SetEntry("0.png", ("cup",), (0, 0, 10, 10)),
        SetEntry("0.png", ("cup", "tea"), (0, 0, 100, 100)),
        SetEntry("0.png", ("tea",), (0, 0, 200, 100)),
        SetEntry("2.png", ("cup",), (0, 0, 20, 10)),
    ]
    (shares,) = positive_shares(task(3), objects, rows([0, 0, 1]))  # the second has no box, the third no rows
    assert shares[0] == 0.5  # 100 of 200 pixels
    assert np.isnan(shares[1:]).all()
    (unknown,) = positive_shares(task(1), objects, replace(rows([0]), sizes=None))
    assert np.isnan(unknown).all()
    assert positive_shares(task(0), [], rows([])) == [pytest.approx(np.zeros(0))]


def test_shares_at_object_level_are_those_of_the_objects() -> None:
    database = (SetEntry("0.png", ("cup",), (0, 0, 10, 10)), SetEntry("0.png", ("cup",), (0, 0, 100, 100)))
    of_objects = RetrievalTask("object", database, (SetEntry("q.png", ("cup",)),))
    assert positive_shares(of_objects, database, rows([0, 1]))[0].tolist() == [0.05, 0.5]


def test_localisation_by_the_size_of_the_true_box() -> None:
    truths = np.array([[0, 0, 10, 10], [0, 0, 5, 5], [0, 0, 100, 100], [0, 0, 100, 100]], np.float32)
    places = np.zeros(4, np.int64), np.array([0, 0, 1, 7])
    found = localisation_by_size(Located(*places, truths, truths, np.array([0.4, 0.8, 1.0, 1.0])), rows([0, 1]))
    assert found["<9 %"] == pytest.approx((0.6, 0.5, 2))
    assert found["38-75 %"] == (1.0, 1.0, 1)  # the last one's photo has no rows
    assert found["9-19 %"].boxes == 0
