from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from objemb.describers.base import Describer
from objemb.describers.pooled_regions import PooledRegions
from objemb.extractors.map import Map
from objemb.pooling.mean import Mean
from objemb.regions.whole_image import WholeImage
from objemb.rerank import joint_factorization as module
from objemb.rerank._database import DenseDatabase
from objemb.rerank.base import Search
from objemb.rerank.joint_factorization import JointFactorization
from objemb.structures import Photo, Regions
from tests.tiny import Colours

MINIMAL = {"top": 2, "size": 64, "query_size": 32, "order": "similarity"}
NEEDS_PHOTOS = True

RED, GREEN, BLUE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)
#: Where the first two photos are red.
RED_BOXES = [(8.0, 8.0, 32.0, 24.0), (40.0, 16.0, 56.0, 40.0)]


class Blind(Describer):
    """A describer without a network."""

    raw_dim = 3

    def _describe(self, photos: Any, given: Any) -> tuple[list[Regions], Tensor]:
        return [Regions.empty(p.size) for p in photos], torch.zeros(0, 3)


def painted(id: str, ground: tuple[int, int, int], **boxes: tuple[float, float, float, float]) -> Photo:
    """A photo of 48 x 64 pixels with boxes of a colour by its name."""
    pixels = torch.tensor(ground, dtype=torch.uint8)[:, None, None].repeat(1, 48, 64)
    for name, (x1, y1, x2, y2) in boxes.items():
        colour = {"red": RED, "green": GREEN}[name]
        pixels[:, int(y1) : int(y2), int(x1) : int(x2)] = torch.tensor(colour, dtype=torch.uint8)[:, None, None]
    return Photo(id, pixels, (48, 64))


QUERY = painted("query", GREEN, red=(4, 4, 28, 28))
PHOTOS = [
    painted("a", BLUE, red=RED_BOXES[0]),
    painted("b", GREEN, red=RED_BOXES[1]),
    painted("none", BLUE),
    painted("black", BLACK),
]


def search(query_box: tuple[float, float, float, float] = (4, 4, 28, 28), **changes: Any) -> Search:
    describer = PooledRegions(regions=WholeImage(), backbone=Colours(), extractor=Map(size=64), pooling=Mean())
    database = DenseDatabase.of(describer.describe(PHOTOS), describer.dim, {p.id: p for p in PHOTOS}.__getitem__)
    queries = describer.describe([QUERY], [Regions(torch.tensor([query_box]), QUERY.size)])
    results = database.search(queries, 4)
    return replace(Search(tuple(queries), tuple(results), database, describer, lambda number: QUERY), **changes)


def reranker(**arguments: Any) -> JointFactorization:
    return JointFactorization(**({"size": 64, "query_size": 24, "rank": 2} | arguments))


@pytest.mark.parametrize("init", ["random", "nndsvd", "nndsvda"])
@pytest.mark.parametrize("batch", [1, 8])
def test_the_object_is_found(init: str, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", batch)
    before = search()
    after = reranker(init=init).rerank(before)
    boxes = {hit.image: hit.box for hit in after.results[0]}
    for image, expected in zip("ab", RED_BOXES, strict=True):
        assert boxes[image] == pytest.approx(expected, abs=2)
    assert boxes["black"] == (0, 0, 64, 48), "nothing is seen: the old box stays"
    old, new = before.results[0], after.results[0]
    assert [(h.image, h.score, h.query_box) for h in new] == [(h.image, h.score, h.query_box) for h in old]


def test_only_the_first_hits_are_localized() -> None:
    before = search()
    after = reranker(top=1).rerank(before)
    moved = [a.box != b.box for a, b in zip(before.results[0], after.results[0], strict=True)]
    assert moved == [True, False, False, False]
    assert reranker(top=3).depth == 3


def test_boxes_are_compared() -> None:
    """The red parts of both photos are as the query, whatever is around them."""
    before = search()
    after = reranker(order="similarity").rerank(before)
    scores = {hit.image: hit.score for hit in after.results[0]}
    old = {hit.image: hit.score for hit in before.results[0]}
    assert min(scores["a"], scores["b"]) > 0.95
    assert scores["a"] > old["a"]
    assert [hit.image for hit in after.results[0]][:2] in (["a", "b"], ["b", "a"])
    assert scores["none"] == pytest.approx(0, abs=1e-5)


def test_each_hit_goes_by_the_box_that_it_matched() -> None:
    before = search()
    (result,) = before.results
    green = (40.0, 30.0, 64.0, 48.0)
    hits = tuple(replace(hit, query_box=green) if hit.image == "b" else hit for hit in result)
    after = reranker().rerank(replace(before, results=(replace(result, hits=hits),)))
    boxes = {hit.image: hit.box for hit in after.results[0]}
    assert boxes["a"] == pytest.approx(RED_BOXES[0], abs=2)
    assert boxes["b"][0] == 0, "the green ground, from the left border on"


def test_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="expected queries whose photos can be opened"):
        reranker().rerank(search(open_query=None))
    with pytest.raises(ValueError, match=r"joint_factorization: expected a describer with a backbone, .* found Blind"):
        reranker().rerank(search(describer=Blind()))
    with pytest.raises(ValueError, match="order: expected one of 'keep', 'similarity', found 'score'"):
        reranker(order="score")
    with pytest.raises(ValueError, match="top: expected an integer of 1 or more, found 0"):
        reranker(top=0)
