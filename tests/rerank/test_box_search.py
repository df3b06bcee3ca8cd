from __future__ import annotations

import pytest
import torch

from objemb.ops.tensors import l2
from objemb.rerank._box_search import BoxSearch, PowerSums


def random_map(channels: int = 6, height: int = 9, width: int = 12, seed: int = 0) -> torch.Tensor:
    return torch.rand(channels, height, width, generator=torch.Generator().manual_seed(seed)).clamp_min(0.2) - 0.2


def test_power_sums_against_the_loop() -> None:
    map_ = random_map()
    boxes = torch.tensor([[0, 0, 12, 9], [3, 2, 5, 7], [11, 8, 12, 9], [0, 4, 12, 5]])
    found = PowerSums(map_, power=10).vectors(boxes)
    for row, (x1, y1, x2, y2) in zip(found, boxes.tolist(), strict=True):
        slow = (map_[:, y1:y2, x1:x2].double() ** 10).sum(dim=(1, 2)) ** 0.1
        assert torch.allclose(row, slow, atol=1e-5)


def test_a_large_power_is_nearly_the_maximum() -> None:
    map_ = random_map()
    box = torch.tensor([[2, 1, 9, 6]])
    wanted = map_[:, 1:6, 2:9].amax(dim=(1, 2)).double()
    assert torch.allclose(PowerSums(map_, power=200).vectors(box)[0], wanted, rtol=0.03)


def test_nothing_and_large_values_stay_finite() -> None:
    assert PowerSums(torch.zeros(3, 2, 2)).vectors(torch.tensor([[0, 0, 2, 2]])).tolist() == [[0, 0, 0]]
    assert torch.isfinite(PowerSums(1e30 * random_map()).vectors(torch.tensor([[0, 0, 5, 5]]))).all()


def test_the_box_of_the_object_is_found() -> None:
    map_ = 0.05 * random_map(8, 20, 30)
    map_[:4, 6:12, 10:19] += 1.0  # the object: the first four channels
    query = torch.tensor([1.0] * 4 + [0.0] * 4)
    box, score = BoxSearch().best(map_, query, ratio=6 / 9)
    assert score > 0.98
    x1, y1, x2, y2 = box.tolist()
    # outside of the object the other channels rise; inside of it nothing is lost
    assert x1 >= 10 - 1
    assert y1 >= 6 - 1
    assert x2 <= 19 + 1
    assert y2 <= 12 + 1


def test_refinement_never_loses_and_the_exhaustive_part_is_exhaustive() -> None:
    map_, query = random_map(5, 7, 8, seed=3), torch.rand(5, generator=torch.Generator().manual_seed(1))
    search = BoxSearch(step=1, stretch=100.0)
    sums, unit = PowerSums(map_), l2(query[None].double())[0]
    all_boxes = torch.tensor(
        [[x1, y1, x2, y2] for y1 in range(7) for y2 in range(y1 + 1, 8) for x1 in range(8) for x2 in range(x1 + 1, 9)]
    )
    _, score = search.best(map_, query, ratio=1.0)
    assert score == pytest.approx(float(sums.similarities(all_boxes, unit).max()), abs=1e-9)
    assert BoxSearch(step=3).best(map_, query, 1.0)[1] <= score + 1e-9


def test_shapes_like_the_query() -> None:
    boxes = BoxSearch(step=2, stretch=1.1)._candidates((8, 12), ratio=0.5)
    ratios = (boxes[:, 3] - boxes[:, 1]) / (boxes[:, 2] - boxes[:, 0])
    assert len(boxes) > 0
    assert ((ratios / 0.5).log().abs() <= torch.tensor(1.1).log() + 1e-6).all()
    assert BoxSearch(step=3)._candidates((1, 1), ratio=9.0).tolist() == [[0, 0, 1, 1]]


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match=r"stretch: expected at least 1, found 0.5"):
        BoxSearch(stretch=0.5)
    with pytest.raises(ValueError, match="ratio"):
        BoxSearch().best(random_map(), torch.ones(6), ratio=0)
