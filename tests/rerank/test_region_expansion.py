from __future__ import annotations

import pytest
import torch
from torch import Tensor

from objemb.ops.tensors import l2
from objemb.rerank._database import DenseDatabase
from objemb.rerank.base import Search
from objemb.rerank.region_expansion import RegionExpansion
from objemb.structures import RegionDescriptors, Regions

MINIMAL = {"top": 2}


def described(image: str, vectors: Tensor) -> RegionDescriptors:
    """Row i looks at the i-th strip of 10 pixels of a photo of 10 x 100."""
    x = torch.arange(len(vectors)) * 10.0
    boxes = torch.stack([x, torch.zeros_like(x), x + 10, torch.full_like(x, 10)], dim=1)
    return RegionDescriptors(image, Regions(boxes, (10, 100)), l2(vectors))


def searched(queries: list[RegionDescriptors], images: list[RegionDescriptors]) -> Search:
    database = DenseDatabase.of(images, queries[0].dim)
    return Search(tuple(queries), tuple(database.search(queries, len(images))), database)


def test_by_hand() -> None:
    query = described("q", torch.tensor([[0.0, 0, 1], [1, 0, 0]]))
    images = [
        described("a", torch.tensor([[0.0, 1, 0], [4, 3, 0]])),  # its second row matches the query's second by 0.8
        described("b", torch.tensor([[3.0, 4, 0], [0, -1, 0]])),  # its first row, by 0.6
        described("c", torch.tensor([[0.0, -1, 0], [0.1, 5, 0]])),
    ]
    after = RegionExpansion(top=2).rerank(searched([query], images))
    (expanded,) = after.queries
    assert torch.allclose(torch.as_tensor(expanded.vectors), torch.tensor([[0.5**0.5, 0.5**0.5, 0]]))
    assert expanded.regions.boxes.tolist() == [[10, 0, 20, 10]]  # what matched the first result
    (result,) = after.results
    assert [hit.image for hit in result] == ["a", "b", "c"]
    assert [hit.score for hit in result] == pytest.approx([1.4 * 0.5**0.5] * 2 + [0.7212], abs=1e-3)
    assert [hit.box[0] for hit in result] == [10, 0, 10]


def best_by_hand(query: RegionDescriptors, image: RegionDescriptors) -> Tensor:
    pairs = [(float(torch.as_tensor(q) @ v), v) for q in query.vectors for v in torch.as_tensor(image.vectors)]
    return max(pairs, key=lambda pair: pair[0])[1]


def test_against_one_pair_after_the_other() -> None:
    generator = torch.Generator().manual_seed(0)
    images = [described(str(i), torch.randn(1 + i % 4, 8, generator=generator)) for i in range(30)]
    queries = [described(f"q{i}", torch.randn(1 + i, 8, generator=generator)) for i in range(3)]
    before = searched(queries, images)
    after = RegionExpansion(top=5).rerank(before)
    for query, result, expanded, reranked in zip(queries, before.results, after.queries, after.results, strict=True):
        best = torch.stack([best_by_hand(query, images[int(hit.image)]) for hit in result.hits[:5]])
        mean = l2(best.sum(dim=0, keepdim=True))
        assert torch.allclose(torch.as_tensor(expanded.vectors), mean, atol=1e-5)
        scores = {image.image: float((torch.as_tensor(image.vectors) @ mean[0]).max()) for image in images}
        assert [hit.image for hit in reranked] == sorted(scores, key=lambda image: -scores[image])


def test_nothing_found() -> None:
    query, empty = described("q", torch.eye(3)), described("none", torch.zeros(0, 3))
    after = RegionExpansion().rerank(searched([query, empty], [described("a", torch.zeros(0, 3))]))
    assert torch.equal(torch.as_tensor(after.queries[0].vectors), torch.as_tensor(query.vectors))
    assert len(after.queries[1]) == 0
    assert [len(r) for r in after.results] == [0, 0]


def test_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="top: expected an integer of 1 or more, found 0"):
        RegionExpansion(top=0)
