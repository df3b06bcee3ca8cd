from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from objemb import registry
from objemb.describers._window_program import CanvasMaps, WindowProgram
from objemb.describers._windows import windows_around
from objemb.describers.base import Describer
from objemb.describers.one_pass import OnePass
from objemb.layers.whitening import Whitening
from objemb.structures import Photo, Regions
from tests.small_settings import STUDENT, TAIL
from tests.tiny import random_photo

DESCRIBERS = {
    "embedding": STUDENT,
    "tail": {**STUDENT, "head": TAIL},
    "windows": {**STUDENT, "head": TAIL, "object_side": 32.0},
    "windows of the input": {**STUDENT, "head": TAIL, "object_side": 32.0, "windows_from": "input"},
    "windows of the pyramid": {**STUDENT, "object_side": 20.0},
    "all that is found": {**STUDENT, "head": TAIL, "nms_iou": 1.0, "max_regions": 3},
    "nothing is sure": {**STUDENT, "head": TAIL, "min_score": 1.0, "object_side": 32.0},
}
SIZES = ((60, 80), (90, 31), (3, 5), (1, 70), (200, 20), (300, 220))


def rows_of(photo: Photo) -> Tensor:
    """uint8 ``(H, W, 3)``."""
    return torch.as_tensor(photo.pixels).permute(1, 2, 0).contiguous()


@pytest.fixture(params=DESCRIBERS)
def describer(request: pytest.FixtureRequest) -> OnePass:
    torch.manual_seed(1)
    built = registry.build(Describer, DESCRIBERS[request.param])
    assert isinstance(built, OnePass)
    return built


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_it_gives_what_the_describer_gives(describer: OnePass, size: tuple[int, int]) -> None:
    photo = random_photo(*size, seed=7)
    expected = describer.describe([photo])[0]
    program = describer.program(100)
    found = program.photos(rows_of(photo)[None])
    count = int(found["count"][0])
    assert count == len(expected.regions) - 1
    assert program.max_detections == describer.regions.max_regions
    assert {name: tuple(t.shape[1:]) for name, t in found.items()} == {
        "boxes": (program.max_detections, 4),
        "labels": (program.max_detections,),
        "scores": (program.max_detections,),
        "count": (),
        "vectors": (program.max_detections, describer.dim),
        "whole": (describer.dim,),
    }
    assert np.allclose(found["boxes"][0, :count], expected.regions.boxes[1:], atol=2e-2)
    assert np.allclose(found["scores"][0, :count], expected.regions.scores[1:], atol=1e-5)
    assert np.array_equal(found["labels"][0, :count], expected.regions.labels[1:])
    vectors = torch.cat([found["whole"], found["vectors"][0, :count]])
    # bytes are rounded alike but for single grey levels, and edges of windows but for single pixels
    assert float((vectors * torch.as_tensor(expected.vectors)).sum(dim=1).min()) > 0.9995
    assert not any(found[name][0, count:].any() for name in ("boxes", "labels", "scores", "vectors"))
    again = program.boxes(rows_of(photo), torch.as_tensor(expected.regions.boxes))
    assert float((again * torch.as_tensor(expected.vectors)).sum(dim=1).min()) > 0.9995


@torch.no_grad()
def test_a_whitening_and_fewer_boxes() -> None:
    torch.manual_seed(1)
    plain = registry.build(Describer, DESCRIBERS["windows"])
    describer = plain.whitened(Whitening.fit(torch.randn(40, 16), 8, fitted_on="noise"))
    photos = [random_photo(60, 80, seed=seed) for seed in (1, 2)]
    found = describer.program(2).photos(torch.stack([rows_of(photo) for photo in photos]))
    for number, expected in enumerate(describer.limited(2).describe(photos)):
        assert int(found["count"][number]) == len(expected.regions) - 1 == 2
        vectors = torch.cat([found["whole"][number, None], found["vectors"][number]])
        assert torch.allclose(vectors, torch.as_tensor(expected.vectors), atol=2e-2)


def test_no_boxes_are_wanted() -> None:
    torch.manual_seed(1)
    program = registry.build(Describer, DESCRIBERS["windows"]).program(0)
    with torch.no_grad():
        found = program.photos(rows_of(random_photo(60, 80))[None])
    assert found["boxes"].shape == (1, 0, 4)
    assert int(found["count"]) == 0
    assert float(found["whole"].norm()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("size", [(200, 150), (47, 300), (20, 20), (1, 90)])
def test_windows_are_those_of_the_describer(size: tuple[int, int]) -> None:
    height, width = size
    photo = random_photo(height, width, seed=3)
    boxes = torch.tensor([[0, 0, width, height], [0, 0, width / 2, height], [width / 3, 0, width / 2, height / 3]])
    colour = torch.tensor([0.5, 0.4, 0.3])
    pixels, sizes, moved = WindowProgram(48.0, colour, 16)(rows_of(photo), torch.tensor(size), boxes)
    assert pixels.shape == (3, 3, 64, 64)
    seen = 0
    for windows in windows_around([photo], [Regions(boxes, photo.size)], [True] * 3, 48.0, colour, 16):
        for number, expected, box in zip(windows.numbers, windows.pixels, windows.boxes, strict=True):
            rows, columns = expected.shape[1:]
            assert sizes[number].tolist() == [rows, columns]
            difference = (pixels[number, :, :rows, :columns] - expected).abs()
            assert float(difference.max()) < 1.1 / 255
            assert float(difference.mean()) < 0.03 / 255
            assert torch.allclose(moved[number], box, atol=1e-3)
            seen += 1
    assert seen == 3


class _Excited(nn.Module):
    """A convolution whose output depends on the mean of all."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.convolution, self.pool = nn.Conv2d(3, 4, 3, stride=2, padding=1), pool

    def forward(self, pixels: Tensor) -> Tensor:
        maps = F.max_pool2d(self.convolution(pixels).relu(), 1)
        return maps * self.pool(maps)


class _Mean(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean(dim=(2, 3), keepdim=True)


@torch.no_grad()
def test_a_mean_over_a_window_is_that_of_the_window_alone() -> None:
    torch.manual_seed(0)
    network = _Excited(nn.AdaptiveAvgPool2d(1))
    canvas = torch.rand(1, 3, 32, 32)
    maps = CanvasMaps(lambda pixels: [network(pixels)], network, 32, 16)(canvas, torch.tensor([[16, 32]]))[0]
    assert torch.allclose(maps[:, :, :8], network(canvas[:, :, :16]), atol=1e-5)
    assert torch.equal(maps[:, :, 8:], maps[:, :, 7:8].expand(-1, -1, 8, -1)), "the border is repeated"


def test_layers_that_no_mask_can_reach() -> None:
    torch.manual_seed(0)
    network = _Excited(_Mean())
    with pytest.raises(ValueError, match="object_side: expected layers that compute a cell from its surroundings"):
        CanvasMaps(lambda pixels: [network(pixels)], network, 32, 16)
