from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from objemb import registry
from objemb.detectors._rcnn import Rcnn
from objemb.detectors._resize_program import LONGEST, ResizeProgram
from objemb.detectors.base import Detector
from objemb.detectors.capabilities import NetworkInput, PaddedBoxes
from objemb.structures import Photo
from tests.small_settings import FASTER, RCNN
from tests.tiny import random_photo

DETECTORS = {
    "one level": {"name": "faster_rcnn", **FASTER, "pyramid_strides": [8]},
    "two levels": {"name": "faster_rcnn", **FASTER},
    "many candidates": {"name": "faster_rcnn", **FASTER, "num_classes": 3, "max_detections": 60, "proposals": 300},
    "few candidates": {"name": "faster_rcnn", **FASTER, "proposals": 7, "score_threshold": 0.52},
    "torchvision": {"name": "torchvision_rcnn", **RCNN},
}
SIZES = ((40, 60), (90, 31), (48, 96), (3, 5), (1, 70), (200, 1), (49, 98))


def rows_of(photo: Photo) -> Tensor:
    """uint8 ``(1, H, W, 3)``."""
    return torch.as_tensor(photo.pixels).permute(1, 2, 0)[None].contiguous()


@torch.no_grad()
def spread_scores(detector: Rcnn) -> None:
    """Scores that differ, without any so large that they are all the same: random layers give either."""
    for layer in (detector.network.rpn.head.cls_logits, detector.network.roi_heads.box_predictor.cls_score):
        outputs: list[Tensor] = []
        handle = layer.register_forward_hook(lambda _module, _args, output, outputs=outputs: outputs.append(output))
        detector.detect([random_photo(40, 60)])
        handle.remove()
        values = torch.cat([output.flatten() for output in outputs])
        layer.weight.mul_(1 / values.std())
        layer.bias.sub_(values.mean() / values.std())


@pytest.fixture(params=DETECTORS)
def detector(request: pytest.FixtureRequest) -> Rcnn:
    torch.manual_seed(3)
    built = registry.build(Detector, DETECTORS[request.param])
    assert isinstance(built, Rcnn)
    spread_scores(built)
    return built


@torch.no_grad()
def found(detector: Rcnn, photo: Photo, min_score: float = 0.0) -> PaddedBoxes:
    program = detector.program()
    pixels, size = program.prepared(rows_of(photo))
    features = detector.features(NetworkInput(pixels, []))
    result: PaddedBoxes = program(features, tuple(pixels.shape[2:]), size, min_score)
    return result


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_it_finds_what_the_detector_finds(detector: Rcnn, size: tuple[int, int]) -> None:
    photo = random_photo(*size, seed=sum(size))
    batch = detector.preprocess([photo])
    expected = detector.boxes(batch, detector.features(batch))[0]
    result = found(detector, photo)
    count = int(result.count)
    assert count == len(expected["boxes"])
    ours = torch.cat([result.boxes, result.scores[:, None], result.labels[:, None]], dim=1)[:count]
    theirs = torch.cat([expected["boxes"], expected["scores"][:, None], expected["labels"][:, None] - 1], dim=1)
    # equal scores have no order, and of those that are as good as the last one others may be kept
    sure = theirs[:, 4] > theirs[:, 4].amin() + 1e-5 if len(theirs) else theirs.new_zeros(0, dtype=torch.bool)
    for some, others in ((ours[sure], theirs), (theirs[sure], ours)):
        differences = (some[:, None] - others[None]).abs().amax(dim=2)
        assert not len(some) or float(differences.amin(dim=1).max()) < 1e-2
    assert torch.allclose(result.scores[:count], expected["scores"], atol=1e-5)
    assert not result.boxes[count:].any()
    assert len(result.boxes) == detector.network.roi_heads.detections_per_img


@torch.no_grad()
def test_the_input_is_that_of_the_detector(detector: Rcnn) -> None:
    for size in SIZES:
        photo = random_photo(*size, seed=1)
        expected = detector.preprocess([photo])
        pixels, inside = detector.program().prepared(rows_of(photo))
        assert [tuple(inside.int().tolist())] == expected.image_sizes
        assert torch.allclose(pixels, expected.tensors, atol=1e-4)
        normalised = detector.program().normalised(torch.full((1, 3, 4, 4), 0.3))
        assert torch.allclose(normalised, detector.normalised(torch.full((1, 3, 4, 4), 0.3)).tensors, atol=1e-6)


def test_boxes_below_the_least_score_are_left_out() -> None:
    torch.manual_seed(3)
    detector = registry.build(Detector, DETECTORS["many candidates"])
    assert isinstance(detector, Rcnn)
    everything = found(detector, random_photo(60, 80))
    middle = float(everything.scores[int(everything.count) // 2])
    some = found(detector, random_photo(60, 80), middle)
    assert 0 < int(some.count) < int(everything.count)
    assert torch.equal(some.scores[: int(some.count)], everything.scores[: int(some.count)])


@pytest.mark.parametrize(("shorter", "longer"), [(512, 512), (800, 1333), (48, 96), (1, 1)])
def test_sizes_are_those_of_float64(shorter: int, longer: int) -> None:
    """Also where float64 falls short of a whole number, which happens to a twelfth of all photos that are shrunk."""
    program = ResizeProgram(shorter, longer, 32, torch.zeros(3), torch.ones(3), torch.zeros(3))
    generator = torch.Generator().manual_seed(0)
    shapes = torch.randint(1, 1200, (400, 2), generator=generator).tolist()
    shapes += [(side, side) for side in (49, 98, 103, 107, 161, 187, 196, 197)]
    shapes += [(3 * n, 4 * n) for n in range(1, 200, 7)] + [(LONGEST, 1), (1, 8000), (30000, 20000)]
    short_of = 0
    for height, width in shapes:
        factor = min(shorter / min(height, width), longer / max(height, width))
        expected = [max(1, math.floor(height * factor)), max(1, math.floor(width * factor))]
        extremes = (min(height, width), max(height, width))
        assert program._size((height, width), extremes).tolist() == expected, (height, width)
        exact = [min(s * shorter // extremes[0], s * longer // extremes[1]) for s in (height, width)]
        short_of += [max(1, side) for side in exact] != expected
    assert shorter == 1 or short_of > 5


def test_photos_of_one_size_in_a_batch() -> None:
    program = ResizeProgram(48, 96, 32, torch.zeros(3), torch.ones(3), torch.tensor([0.1, 0.2, 0.3]))
    photos = torch.randint(0, 256, (3, 20, 70, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels, size = program(photos)
    assert size.tolist() == [27, 96]
    assert pixels.shape == (3, 3, 32, 96)
    assert torch.equal(pixels[1], program(photos[1:2])[0][0])
    assert torch.allclose(pixels[:, :, 27:], torch.tensor([0.1, 0.2, 0.3])[:, None, None])
