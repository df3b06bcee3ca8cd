from __future__ import annotations

import statistics

import pytest
import torch
from torch import Tensor

from objemb.pooling._selection import selection

MAPS = torch.tensor(
    [
        [[0.0, 5.0, 1.0], [2.0, 3.0, 4.0]],
        [[9.0, 5.0, 1.0], [2.0, 3.0, 4.0]],
        [[7.0, 7.0, 7.0], [7.0, 7.0, 7.0]],
    ]
)[None]


def slow(maps: Tensor, weights: Tensor, kind: str) -> Tensor:
    """One map, cell by cell."""
    cells = [(y, x) for y in range(maps.shape[1]) for x in range(maps.shape[2]) if weights[y, x] > 0]
    chosen = torch.zeros(maps.shape[1:], dtype=torch.bool)
    if kind == "sum" and cells:
        median = statistics.median(float(maps[:, y, x].sum()) for y, x in cells)
        cells_chosen = [(y, x) for y, x in cells if float(maps[:, y, x].sum()) >= median - 1e-9]
    else:
        cells_chosen = []
        for channel in maps:
            values = [float(channel[y, x]) for y, x in cells]
            if values and max(values) > min(values):
                cells_chosen += [c for c, v in zip(cells, values, strict=True) if v == max(values)]
    for y, x in cells_chosen or cells:
        chosen[y, x] = True
    return chosen


def test_max_by_hand() -> None:
    # channel 0 has its maximum at (0, 1), channel 1 at (0, 0); channel 2 is the same everywhere
    assert selection(MAPS, None, "max")[0].tolist() == [[True, True, False], [False, False, False]]


def test_sum_by_hand() -> None:
    # sums 16 17 9 / 11 13 15: the median is 14
    assert selection(MAPS, None, "sum")[0].tolist() == [[True, True, False], [False, False, True]]


def test_weights_bound_the_region() -> None:
    weights = torch.tensor([[[0.0, 0.0, 0.1], [1.0, 0.5, 0.0]]])
    assert selection(MAPS, weights, "max")[0].tolist() == [[False, False, False], [False, True, False]]
    assert selection(MAPS, weights, "sum")[0].tolist() == [[False, False, False], [True, True, False]]
    for kind in ("max", "sum"):
        assert not selection(MAPS, weights * 0, kind).any()


@pytest.mark.parametrize("kind", ["max", "sum"])
def test_against_cell_by_cell(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(30, 3, 5, 6, generator=generator).relu().double()
    weights = (torch.rand(30, 5, 6, generator=generator) - 0.4).clamp_min(0).double()
    weights[0] = 0
    expected = torch.stack([slow(m, w, kind) for m, w in zip(maps, weights, strict=True)])
    assert torch.equal(selection(maps, weights, kind), expected)


@pytest.mark.parametrize("kind", ["max", "sum"])
def test_all_of_a_region_where_nothing_stands_out(kind: str) -> None:
    assert selection(torch.zeros(2, 4, 3, 3), None, kind).all()
    assert selection(torch.full((1, 4, 1, 1), -2.0), None, kind).all()
    assert selection(torch.zeros(0, 4, 3, 3), None, kind).shape == (0, 3, 3)


def test_an_unknown_kind() -> None:
    with pytest.raises(ValueError, match="kind: expected one of 'max', 'sum', found 'sift'"):
        selection(MAPS, None, "sift")
