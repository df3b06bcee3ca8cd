from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from objemb.describers.base import Describer
from objemb.rerank.base import search_and_rerank
from objemb.rerank.region_match import RegionMatch
from objemb.structures import Photo, RegionDescriptors, Regions
from tests.rerank.made import database, described, names, query, random_database, random_rows, scores, search
from tests.tiny import random_photo

MINIMAL = {"look": True}

X, Y, Z = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


def test_all_regions_of_the_query_count() -> None:
    data = database([X, Z], [(0.8, 0.6, 0), (0.0, 0.8, 0.6)], [Z], dim=3)
    asked = search(data, query(X, Y, dim=3))
    assert names(asked) == ["0", "1", "2"]
    found = RegionMatch().rerank(asked)
    assert names(found) == ["1", "0", "2"]
    assert scores(found) == pytest.approx([0.8, 0.5, 0])
    best = found.results[0][0]
    assert (best.box, best.query_box) == ((0, 0, 10, 10), (0, 0, 10, 10))
    assert [(r.box, r.query_box) for r in best.runners_up] == [((10, 0, 20, 10), (10, 0, 20, 10))]
    assert names(RegionMatch(score="max").rerank(asked)) == names(asked)


def test_mutual_matches_count_a_region_once() -> None:
    data = database([(0.8, 0.6, 0)], [(0.6, 0.8, 0), (0.8, 0.6, 0)], dim=3)
    found = RegionMatch(score="mutual").rerank(search(data, query(X, Y, dim=3)))
    assert names(found) == ["1", "0"]
    assert scores(found) == pytest.approx([0.8, 0.4])


@pytest.mark.parametrize("score", ["mean", "mutual", "max"])
def test_scores_as_the_loop_gives_them(score: str) -> None:
    data = random_database(30)
    asked = search(data, described("q", random_rows(4, seed=9).tolist(), 8))
    found = RegionMatch(score=score).rerank(asked)
    for hit in found.results[0]:
        rows, queries = (
            torch.as_tensor(data.rows_of_images([hit.image]).vectors),
            torch.as_tensor(asked.queries[0].vectors),
        )
        values = []
        for q in queries:
            row = max(range(len(rows)), key=lambda i: float(rows[i] @ q))
            is_mutual = max(float(rows[row] @ other) for other in queries) == float(rows[row] @ q)
            values.append(float(rows[row] @ q) if score != "mutual" or is_mutual else 0.0)
        assert hit.score == pytest.approx(max(values) if score == "max" else sum(values) / 4, abs=1e-5)


def test_hits_keep_their_metadata() -> None:
    data = database([X, Z], [(0.8, 0.6, 0), (0.0, 0.8, 0.6)], dim=3)
    asked = search(data, query(X, Y, dim=3))
    known = replace(asked.results[0], hits=[replace(hit, metadata={"n": hit.image}) for hit in asked.results[0]])
    hits = RegionMatch().rerank(replace(asked, results=(known,))).results[0]
    assert [(hit.image, hit.metadata) for hit in hits] == [("1", {"n": "1"}), ("0", {"n": "0"})]
    with pytest.raises(TypeError, match="read-only mapping"):
        hits[0].metadata["n"] = 1  # type: ignore[index]
    made = RegionMatch().rerank(asked).results[0][0]
    others = tuple(replace(other, metadata={}) for other in hits[0].runners_up)
    assert made == replace(made) == replace(hits[0], metadata={}, runners_up=others)


def test_damaged_rows_are_errors() -> None:
    data = random_database(3)
    asked = search(data, described("q", random_rows(2, seed=9).tolist(), 8))
    bad = replace(data, boxes=np.full_like(data.boxes, np.nan))
    with pytest.raises(ValueError, match=r"Match.box: expected \(x1, y1, x2, y2\)"):
        list(RegionMatch().rerank(replace(asked, database=bad)).results[0])
    bad = replace(data, vectors=np.full_like(data.vectors, np.nan))
    with pytest.raises(ValueError, match="region_match: expected finite vectors"):
        RegionMatch().rerank(replace(asked, database=bad))


def test_one_region_changes_nothing_but_rounding() -> None:
    asked = search(random_database(30), described("q", random_rows(1, seed=9).tolist(), 8))
    found = RegionMatch().rerank(asked)
    assert names(found) == names(asked)
    assert [h.box for h in found.results[0]] == [h.box for h in asked.results[0]]


def test_one_region_keeps_what_was_found_but_not_what_another_step_made_of_it() -> None:
    data = random_database(30)
    (asked,) = search(data, described("q", random_rows(1, seed=9).tolist(), 8)).queries
    found = search_and_rerank([asked], data, [], 10)
    assert found.is_as_found(0)
    (kept,) = RegionMatch().rerank(found).results
    assert kept == found.results[0]
    turned = replace(found.results[0], hits=[replace(h, score=-n) for n, h in enumerate(reversed(list(kept)))])
    changed = replace(found, results=(turned,))
    assert not changed.is_as_found(0)
    again = RegionMatch().rerank(changed)
    assert names(again) == names(found)
    assert scores(again) == pytest.approx([h.score for h in kept], abs=1e-6)


def test_only_the_first_are_ranked_again() -> None:
    data = database([X, Z], [(0.9, 0.19**0.5, 0)], [(0.8, 0.6, 0), Y], dim=3)
    asked = search(data, query(X, Y, dim=3))
    assert names(asked) == ["0", "2", "1"]
    assert names(RegionMatch(top=2).rerank(asked)) == ["2", "0", "1"]


class Halves(Describer):
    """Finds the left half, the right half, a point and what was asked for, as X, Y and twice Z."""

    raw_dim = 3

    def _describe(self, photos: Sequence[Photo], given: Sequence[Regions | None]) -> tuple[list[Regions], torch.Tensor]:
        boxes = torch.tensor([[0.0, 0, 50, 100], [50, 0, 100, 100], [0, 0, 0, 0], [0, 0, 80, 100]])
        return [Regions(boxes, photo.size) for photo in photos], torch.tensor([X, Y, Z, Z] * len(photos))


def test_looking_for_more_regions_in_the_query() -> None:
    regions = Regions(torch.tensor([[0.0, 0, 80, 100]]), (100, 100))
    asked = RegionDescriptors("query", regions, torch.tensor([(0.6, 0.8, 0)]))
    data = database([(0.6, 0.8, 0)], [X, (0.6, 0.7, 0.15**0.5)], [Z], dim=3)
    plain = search(data, asked)
    with pytest.raises(ValueError, match="describer"):
        RegionMatch(look=True).rerank(plain)
    ready = replace(plain, describer=Halves(), open_query=lambda n: random_photo(100, 100))
    found = RegionMatch(look=True).rerank(ready)
    assert found.results[0].query_boxes == ((0, 0, 80, 100), (0, 0, 50, 100), (50, 0, 100, 100))
    assert names(found) == ["1", "0", "2"]
    assert found.queries == ready.queries


def test_nothing_and_mistakes() -> None:
    found = RegionMatch().rerank(search(database([X], [], dim=3), query(X, dim=3), query(dim=3)))
    assert [len(r) for r in found.results] == [1, 0]
    with pytest.raises(ValueError, match="score: expected one of 'mean', 'mutual', 'max', found 'sum'"):
        RegionMatch(score="sum")
