"""Every re-ranker keeps to the contract of its kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from objemb.rerank._database import DenseDatabase
from objemb.rerank.base import Reranker, Search
from objemb.structures import Photo, Regions
from tests.contracts import made
from tests.contracts.made import PHOTOS, build, every


@every("rerank")
class TestRerankers:
    """A search for the left halves of three photos, and for nothing, in five photos, one of which has no rows."""

    def search(self, name: str, folder: Path, rows: int | None = None) -> Search:
        describer = build(
            "describers", getattr(made.module_of_tests("rerank", name), "DESCRIBER", "pooled_regions"), folder
        )
        photos = PHOTOS[:5]
        found = describer.describe(photos)
        database = DenseDatabase.of(
            [*(d[:rows] for d in found[:4]), found[4][:0]], describer.dim, {p.id: p for p in photos}.__getitem__
        )
        halves = [Regions(torch.tensor([[0.0, 0, p.size[1] / 2, p.size[0]]]), p.size) for p in photos[:3]]
        queries = [*describer.describe(photos[:3], halves), found[3][:0]]
        results = database.search(queries, len(database.images))
        return Search(tuple(queries), tuple(results), database, describer, photos.__getitem__)

    def told(self, search: Search) -> list[Any]:
        return [
            [r.to_json() for r in search.results],
            [q.vectors.tolist() for q in search.queries],
            search.database.vectors.tolist(),
        ]

    @pytest.mark.parametrize("rows", [None, 1])
    def test_results_in_results_out(self, name: str, tmp_path: Path, rows: int | None) -> None:
        reranker: Reranker = build("rerank", name, tmp_path)
        assert reranker.depth is None or reranker.depth >= 1
        before = self.search(name, tmp_path, rows)
        given = self.told(before)
        after = reranker.rerank(before)
        assert self.told(before) == given, "a re-ranker does not edit what it is given"
        assert self.told(reranker.rerank(before)) == self.told(after)
        assert [q.image for q in after.queries] == [q.image for q in before.queries]
        assert after.database.images == before.database.images
        for old, new in zip(before.results, after.results, strict=True):
            assert new.query_image == old.query_image
            assert {hit.image for hit in new} >= {hit.image for hit in old}
        assert len(after.results[3]) == 0, "a query without rows finds nothing"

    def test_boxes_are_in_the_photos(self, name: str, tmp_path: Path) -> None:
        before = self.search(name, tmp_path)
        for number, result in enumerate(build("rerank", name, tmp_path).rerank(before).results):
            for hit in result:
                for (x1, y1, x2, y2), photo in (
                    (hit.box, before.found_photo(hit.image)),
                    (hit.query_box, before.query_photo(number)),
                ):
                    assert -0.01 <= x1 <= x2 <= photo.size[1] + 0.01
                    assert -0.01 <= y1 <= y2 <= photo.size[0] + 0.01

    @pytest.mark.parametrize("gone", [("photo0",), tuple(p.id for p in PHOTOS[:5])])
    def test_a_photo_that_cannot_be_opened_costs_no_answer(
        self, name: str, tmp_path: Path, gone: tuple[str, ...]
    ) -> None:
        before = self.search(name, tmp_path)

        def open_photo(image: str) -> Photo:
            if image in gone:
                raise FileNotFoundError(image)
            return next(p for p in PHOTOS if p.id == image)

        missing = replace(before, database=replace(before.database, open_photo=open_photo))
        results = build("rerank", name, tmp_path).rerank(missing).results
        for old, new in zip(before.results, results, strict=True):
            assert {hit.image for hit in new} == {hit.image for hit in old}
        if len(gone) > 1 and getattr(made.module_of_tests("rerank", name), "NEEDS_PHOTOS", False):
            assert [r.hits for r in results] == [r.hits for r in before.results]

    def test_scores_have_a_scale(self, name: str, tmp_path: Path) -> None:
        scale = build("rerank", name, tmp_path).scale
        assert scale is None or (isinstance(scale, str) and scale)

    def test_nothing_to_do(self, name: str, tmp_path: Path) -> None:
        reranker = build("rerank", name, tmp_path)
        full = self.search(name, tmp_path)
        assert reranker.rerank(replace(full, queries=(), results=())).results == ()
        nothing = tuple(replace(r, hits=()) for r in full.results)
        assert len(reranker.rerank(replace(full, results=nothing)).results) == 4
        empty = replace(full, results=nothing, database=DenseDatabase.of([], full.database.dim))
        assert [len(r) for r in reranker.rerank(empty).results] == [0] * 4
