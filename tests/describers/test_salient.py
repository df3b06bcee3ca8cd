from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

from objemb.describers import _salient
from objemb.describers._salient import SalientRegions, cell_centres, in_hulls
from objemb.ops.grid import Grid
from objemb.ops.opencv import convex_hull
from objemb.structures import Photo
from tests.tiny import plain_photo, random_photo

pytest.importorskip("cv2")

#: Three groups of points in original pixels, far from each other, the first of 4 x 4 cells.
LEFT = torch.tensor([[0.0, 0], [40, 0], [40, 40], [0, 40], [20, 20]])
RIGHT = torch.tensor([[200.0, 0], [220, 0], [220, 20], [200, 20]])
BELOW = torch.tensor([[100.0, 150], [130, 150], [100, 180]])
GRID = Grid(20, 24, (10.0, 10.0))
PHOTO = random_photo(200, 240)


def salient(**settings: Any) -> SalientRegions:
    defaults: dict[str, Any] = {
        "key_points": "sift",
        "max_points": 4000,
        "min_points": 1,
        "clusters": 3,
        "min_cells": 1,
    }
    return SalientRegions(**(defaults | settings))


def finds(monkeypatch: pytest.MonkeyPatch, points: Tensor) -> None:
    """Let the detector find points at half the size of the photo."""
    monkeypatch.setattr(_salient, "key_points", lambda pixels, detector: points / 2)


def found(source: SalientRegions, saliency: Tensor | None = None, photo: Photo = PHOTO) -> tuple[Any, Tensor]:
    return source.find(photo, torch.ones(20, 24) if saliency is None else saliency, GRID, (100, 120))


def test_a_hull_for_every_union_of_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    finds(monkeypatch, torch.cat([LEFT, RIGHT, BELOW]))
    regions, cells = found(salient())
    assert len(regions) == 8
    assert cells.shape == (8, 480)
    assert regions.boxes[0].tolist() == [0, 0, 240, 200]
    assert cells[0].all()
    unions = [torch.cat(u) for n in (1, 2, 3) for u in combinations((LEFT, RIGHT, BELOW), n)]
    by_hand = {tuple(torch.cat([u.amin(0), u.amax(0)]).tolist()): u for u in unions}
    for box, of_region in zip(regions.boxes[1:].tolist(), cells[1:], strict=True):
        hull = convex_hull(by_hand.pop(tuple(box)))
        assert torch.equal(of_region, in_hulls(cell_centres(GRID), [hull])[0])
    assert not by_hand


def test_cells_lie_where_the_network_looks() -> None:
    """5 pixels further up and 8 further to the left, with what was seen there."""
    moved = Grid(2, 3, (10.0, 20.0), (-5.0, -8.0))
    assert cell_centres(moved).tolist() == [[2, 0], [22, 0], [42, 0], [2, 10], [22, 10], [42, 10]]
    saliency = torch.arange(6.0).view(2, 3)
    assert torch.allclose(_salient._saliency_at(cell_centres(moved), saliency, moved), saliency.flatten(), atol=1e-5)


def test_cells_of_a_square_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    finds(monkeypatch, LEFT)
    regions, cells = found(salient(clusters=1))
    assert regions.boxes.tolist() == [[0, 0, 240, 200], [0, 0, 40, 40]]
    expected = torch.zeros(20, 24, dtype=torch.bool)
    expected[:4, :4] = True
    assert torch.equal(cells[1].view(20, 24), expected)
    assert regions.extras["masks"].shape == (2, 28, 28)
    assert regions.extras["masks"].all()


def test_a_mask_is_the_hull_over_its_box(monkeypatch: pytest.MonkeyPatch) -> None:
    finds(monkeypatch, torch.tensor([[0.0, 0], [200, 0], [0, 100]]))
    mask = found(salient(clusters=1))[0].extras["masks"][1] > 0
    sums = torch.arange(28)[:, None] + torch.arange(28)
    assert mask[sums < 27].all()
    assert not mask[sums > 27].any()  # those between lie on the border


def test_tiny_regions_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    finds(monkeypatch, torch.cat([LEFT, RIGHT]))  # 16 and 4 cells
    areas = lambda least: found(salient(clusters=2, min_cells=least))[1].sum(dim=1).tolist()  # noqa: E731
    assert len(areas(4)) == 4
    assert sorted(areas(5))[0] == 16
    finds(monkeypatch, torch.tensor([[0.0, 0], [50, 50], [100, 100]]))  # on a line
    assert areas(1) == [480]


def test_the_most_salient_key_points_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    saliency = torch.zeros(20, 24)
    saliency[:4, :4] = 2.0
    saliency[:4, 18:] = 3.0
    finds(monkeypatch, torch.cat([BELOW, LEFT, RIGHT]))
    best = salient(max_points=4).points(PHOTO, saliency, GRID, (100, 120))
    assert sorted(best.tolist()) == sorted(RIGHT.tolist())


def test_salient_cells_where_key_points_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    saliency = torch.zeros(20, 24)
    saliency[3, 5], saliency[7, 2], saliency[0, 0] = 3.0, 2.0, 1.0
    finds(monkeypatch, BELOW)
    few = salient(min_points=4)
    assert few.points(PHOTO, saliency, GRID, (100, 120)).tolist() == [[55, 35], [25, 75], [5, 5]]
    assert salient(min_points=3).points(PHOTO, saliency, GRID, (100, 120)).shape == (3, 2)
    always = salient(key_points="none", min_points=2)
    assert always.points(PHOTO, saliency, GRID, (100, 120)).tolist() == [[55, 35], [25, 75]]


def test_cells_beyond_the_image_count_at_its_border() -> None:
    grid = Grid(1, 3, (10.0, 10.0))
    photo = random_photo(10, 22)
    points = salient(key_points="none", min_points=9).points(photo, torch.ones(1, 3), grid, (10, 22))
    assert points.tolist() == [[5, 5], [15, 5], [22, 5]]


def test_nothing_to_see() -> None:
    plain = plain_photo(200, 240, (9, 9, 9))
    regions, cells = found(salient(), torch.zeros(20, 24), plain)
    assert len(regions) == len(cells) == 1
    regions, _ = found(salient(min_points=300), None, plain)  # equally salient everywhere: the first 300 cells
    assert len(regions) == 8


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_points_than_groups(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    finds(monkeypatch, LEFT[[0, 2]][:count])
    assert len(salient().hulls(LEFT[[0, 2]][:count])) == 2**count - 1
    assert len(found(salient())[0]) == 1


def test_real_key_points_of_a_photo_that_was_scaled_down() -> None:
    photo = random_photo(100, 120, seed=3, size=(200, 240))
    regions, cells = found(salient(min_points=1), None, photo)
    assert (regions.boxes >= 0).all()
    assert len(regions) == len(cells) > 1
    again, _ = found(salient(min_points=1), None, photo)
    assert torch.equal(torch.as_tensor(regions.boxes), torch.as_tensor(again.boxes))


def test_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="key_points: expected one of 'hessian', 'sift', 'none', found 'surf'"):
        salient(key_points="surf")
    with pytest.raises(ValueError, match="clusters: expected a number from 1 to 8, found 9"):
        salient(clusters=9)
    for key in ("max_points", "min_points", "clusters", "min_cells"):
        with pytest.raises(ValueError, match=f"{key}: expected an integer of 1 or more, found 0"):
            salient(**{key: 0})
