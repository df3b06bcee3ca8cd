from __future__ import annotations

import pytest
import torch
from torch import Tensor

from objemb.describers._salient import in_hulls
from objemb.ops.opencv import convex_hull

pytest.importorskip("cv2")

SQUARE = torch.tensor([[1.0, 1], [3, 1], [3, 3], [1, 3]])
RASTER = torch.tensor([[x + 0.5, y + 0.5] for y in range(4) for x in range(4)])


def cells(found: Tensor) -> list[str]:
    return ["".join(".#"[c] for c in row) for row in found.reshape(4, 4).int().tolist()]


def in_hull_by_hand(point: Tensor, hull: Tensor) -> bool:
    """Whether a point is on the same side of all edges, one after the other."""
    sides = []
    for (x1, y1), (x2, y2) in zip(hull.tolist(), hull.roll(-1, 0).tolist(), strict=True):
        sides.append((x2 - x1) * (point[1] - y1) - (y2 - y1) * (point[0] - x1))
    return all(s >= 0 for s in sides) or all(s <= 0 for s in sides)


def test_corners_only() -> None:
    inner = torch.tensor([[2.0, 2], [2, 1], [1, 1]])
    hull = convex_hull(torch.cat([inner, SQUARE]))
    assert sorted(hull.tolist()) == sorted(SQUARE.tolist())


def test_points_and_lines() -> None:
    assert convex_hull(SQUARE[:1].expand(3, 2)).tolist() == [[1, 1]]
    line = convex_hull(torch.tensor([[0.0, 0], [1, 1], [3, 3]]))
    assert sorted(line.tolist()) == [[0, 0], [3, 3]]
    with pytest.raises(ValueError, match="points: expected at least one for a convex hull, found none"):
        convex_hull(torch.zeros(0, 2))


def test_cells_by_hand() -> None:
    triangle = convex_hull(torch.tensor([[0.0, 0], [4, 0], [0, 4]]))
    square, of_triangle = in_hulls(RASTER, [SQUARE, triangle])
    assert cells(square) == ["....", ".##.", ".##.", "...."]
    assert cells(of_triangle) == ["####", "###.", "##..", "#..."]  # centres on the border are in


def test_both_directions_around() -> None:
    assert torch.equal(in_hulls(RASTER, [SQUARE]), in_hulls(RASTER, [SQUARE.flip(0)]))


def test_nothing_is_in_a_hull_without_area() -> None:
    point, line = SQUARE[:1], torch.tensor([[0.5, 0.5], [3.5, 3.5]])
    assert not in_hulls(RASTER, [point, line, SQUARE])[:2].any()
    assert in_hulls(RASTER, []).shape == (0, 16)


def test_points_of_their_own() -> None:
    points = torch.stack([RASTER, RASTER + 1])
    first, second = in_hulls(points, [SQUARE, SQUARE + 1])
    assert torch.equal(first, second)


def test_against_one_edge_after_the_other() -> None:
    generator = torch.Generator().manual_seed(0)
    hulls = [convex_hull(torch.rand(n, 2, generator=generator) * 100) for n in (3, 4, 50, 7)]
    points = torch.rand(200, 2, generator=generator) * 100
    slow = torch.tensor([[in_hull_by_hand(p, h) for p in points] for h in hulls])
    assert torch.equal(in_hulls(points, hulls), slow)
