from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from objemb.ops.components import component_boxes, largest_component

pytest.importorskip("scipy")


def slow(mask: Tensor) -> Tensor:
    """One mask, by a flood from every cell in reading order."""
    height, width = mask.shape
    left = {(y, x) for y in range(height) for x in range(width) if mask[y, x]}
    best: set[tuple[int, int]] = set()
    for start in sorted(left):
        part, waiting = set(), [start] if start in left else []
        while waiting:
            y, x = waiting.pop()
            if (y, x) in left:
                left.remove((y, x))
                part.add((y, x))
                waiting += [(y + down, x + right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
        if len(part) > len(best):
            best = part
    found = torch.zeros_like(mask)
    for y, x in best:
        found[y, x] = True
    return found


def mask(*rows: str) -> Tensor:
    return torch.tensor([[c == "#" for c in row] for row in rows])


def test_corners_touch() -> None:
    assert torch.equal(largest_component(mask("#..##", ".#...", "..#..")[None])[0], mask("#....", ".#...", "..#.."))
    assert torch.equal(largest_component(mask("##.#", "..##", "#..#")[None])[0], mask("##.#", "..##", "...#"))


def test_the_first_of_equal_ones() -> None:
    assert torch.equal(largest_component(mask("..#", "#.#", "#..")[None])[0], mask("..#", "..#", "..."))


def test_masks_do_not_touch_one_another() -> None:
    masks = torch.stack([mask("#..", "#.."), mask("#.#", "..#"), mask("...", "..."), mask("###", "###")])
    expected = [mask("#..", "#.."), mask("..#", "..#"), mask("...", "..."), mask("###", "###")]
    assert torch.equal(largest_component(masks), torch.stack(expected))


@pytest.mark.parametrize("share", [0.3, 0.5, 0.6, 0.8])
def test_against_a_flood(share: float) -> None:
    masks = torch.rand(40, 7, 9, generator=torch.Generator().manual_seed(0)) < share
    assert torch.equal(largest_component(masks), torch.stack([slow(m) for m in masks]))


@pytest.mark.parametrize("shape", [(0, 3, 3), (2, 0, 3), (0, 0, 0)])
def test_nothing(shape: tuple[int, ...]) -> None:
    assert largest_component(torch.zeros(shape, dtype=torch.bool)).shape == shape


def test_what_is_given_stays_as_it_is() -> None:
    given = mask("##.#", "....")[None]
    before = given.clone()
    largest_component(given)
    assert torch.equal(given, before)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match=r"masks: expected shape \(any, any, any\), found \(3, 3\)"):
        largest_component(torch.zeros(3, 3, dtype=torch.bool))
    with pytest.raises(TypeError, match=r"masks: expected torch\.bool, found torch\.float32"):
        largest_component(torch.zeros(1, 3, 3))


def test_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ImportError, match=r"connected components need scipy: pip install 'objemb\[methods\]'"):
        largest_component(mask("#")[None])


def test_boxes_of_all_components() -> None:
    masks = torch.stack([mask("#..#", ".#.#", "...."), mask("....", "....", "...."), mask("####", "#...", "#..#")])
    assert component_boxes(masks).tolist() == [[0, 0, 2, 2], [3, 0, 4, 2], [0, 0, 4, 3], [3, 2, 4, 3]]
    assert component_boxes(masks[:0]).shape == (0, 4)
    with pytest.raises(TypeError, match=r"masks: expected torch\.bool"):
        component_boxes(masks.float())
