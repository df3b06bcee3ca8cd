from __future__ import annotations

from dataclasses import replace

import torch

from objemb.aggregators.keep import Keep
from objemb.aggregators.sum import Sum
from objemb.structures import RegionDescriptors, Regions


def described(rows: list[list[float]], vectors: list[list[float]]) -> RegionDescriptors:
    boxes = torch.tensor(rows).reshape(-1, 4)
    return RegionDescriptors("a", Regions(boxes, (40, 60)), torch.tensor(vectors).reshape(-1, 2), {"price": 3})


WHOLE = [0.0, 0.0, 60.0, 40.0]


def test_whole_image_does_not_count_unless_asked_for() -> None:
    image = described([WHOLE, [0.0, 0, 9, 9], [5.0, 5, 9, 9]], [[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    half = 0.5**0.5
    row = Sum().aggregate(image)
    assert torch.allclose(torch.as_tensor(row.vectors), torch.tensor([[half, half]]))
    assert row.regions.boxes.tolist() == [WHOLE]
    assert row.image == "a"
    assert row.metadata == {"price": 3}
    assert torch.allclose(torch.as_tensor(Sum(whole_image=True).aggregate(image).vectors), torch.tensor([[0.0, 1.0]]))


def test_whole_image_alone_counts() -> None:
    image = described([WHOLE], [[0.6, 0.8]])
    assert torch.allclose(torch.as_tensor(Sum().aggregate(image).vectors), torch.as_tensor(image.vectors))


def test_given_boxes_all_count() -> None:
    row = Sum().aggregate(described([[1.0, 2, 3, 4], [2.0, 1, 9, 3]], [[1.0, 0.0], [0.0, 1.0]]))
    assert torch.allclose(torch.as_tensor(row.vectors), torch.full((1, 2), 0.5**0.5))
    assert row.regions.boxes.tolist() == [[1, 1, 9, 4]]


def test_what_counts_is_what_a_whitening_learns_from() -> None:
    grid, alone = Regions(torch.tensor([WHOLE, [0.0, 0, 9, 9]]), (40, 60)), Regions.whole((40, 60))
    assert [Sum().first_counted(r) for r in (grid, alone, grid[1:])] == [1, 0, 0]
    assert Sum(whole_image=True).first_counted(grid) == 0
    assert Keep().first_counted(grid) == 0


def test_zero_vectors_and_no_regions() -> None:
    assert Sum().aggregate(described([WHOLE, WHOLE], [[0.0, 0.0], [0.0, 0.0]])).vectors.tolist() == [[0, 0]]
    assert Sum().aggregate(described([], [])).vectors.shape == (0, 2)


def test_regions_may_count_as_much_as_their_scores() -> None:
    image = described([WHOLE, [0.0, 0, 9, 9], [5.0, 5, 9, 9]], [[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    image = replace(image, regions=replace(image.regions, scores=torch.tensor([9.0, 3.0, 4.0])))
    assert torch.allclose(torch.as_tensor(Sum(weighted=True).aggregate(image).vectors), torch.tensor([[0.6, 0.8]]))
