"""How the boxes of a query are seen, against the rows of an index and slow readings of what is published."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from objemb.aggregators.base import Aggregator
from objemb.aggregators.keep import Keep
from objemb.aggregators.sum import Sum
from objemb.describers.base import Describer
from objemb.describers.neural_codes import NeuralCodes
from objemb.describers.pooled_regions import PooledRegions
from objemb.detectors.base import Detector
from objemb.extractors.base import Extractor
from objemb.extractors.crop import Crop
from objemb.extractors.map import Map
from objemb.extractors.pyramid import Pyramid
from objemb.models import Model
from objemb.models.pipeline import VectorPipeline
from objemb.ops.images import as_batch, resize
from objemb.ops.rmac import rmac_cells
from objemb.ops.tensors import l2
from objemb.pooling.max import Max
from objemb.pooling.mean import Mean
from objemb.regions.detections import Detections
from objemb.regions.rmac_grid import RmacGrid
from objemb.regions.whole_image import WholeImage
from objemb.structures import Photo, Regions
from tests.tiny import TinyBackbone, random_photo

BOX = (8, 4, 72, 52)
#: Edges between pixels, a border, a single pixel.
BOXES = [(8.0, 4.0, 72.0, 52.0), (10.4, 7.6, 41.5, 30.2), (0.0, 0.0, 33.7, 60.0), (79.0, 59.0, 80.0, 60.0)]
EXTRACTORS = {
    "crop": Crop(size=64),
    "crop, keeping ratios": Crop(size=64, fit="keep"),
    "crop, padded": Crop(size=64, fit="pad"),
    "map": Map(size=160),
    "map, shortest side": Map(size=120, side="shortest"),
    "map, aligned": Map(size=160, sampling="aligned"),
    "pyramid": Pyramid(sizes=[64, 128, 256], target=64),
}


class Stored(Detector):
    """The boxes of this file, as they are."""

    classes = ()

    def detect(self, photos: Sequence[Photo]) -> list[Regions]:
        return [Regions(torch.tensor(BOXES), p.size, torch.ones(len(BOXES))) for p in photos]


def pooled(extractor: Extractor, **changes: Any) -> PooledRegions:
    parts = {"regions": WholeImage(), "backbone": TinyBackbone(channels=9), "pooling": Mean(), "extractor": extractor}
    return PooledRegions(**(parts | changes))


def asked(describer: Describer, photo: Photo, crop: str, boxes: Any = BOXES, by: Aggregator | None = None) -> Tensor:
    return torch.as_tensor(
        VectorPipeline(describer, by or Keep())
        .query_boxes([photo], [Regions(torch.tensor(boxes), photo.size)], crop)[0]
        .vectors
    )


@pytest.mark.parametrize("fit", ["squash", "pad", "keep"])
@pytest.mark.parametrize("photo", [random_photo(60, 80), random_photo(30, 40, size=(60, 80))], ids=["full", "smaller"])
def test_a_crop_is_the_same_vector_in_the_index_in_its_photo_and_cut_out(photo: Photo, fit: str) -> None:
    teacher = pooled(Crop(size=64, fit=fit), regions=Detections(detector=Stored(), min_score=None, nms_iou=1.0))
    (indexed,) = teacher.describe([photo])
    rows = torch.as_tensor(indexed.vectors[1:])
    assert torch.equal(torch.as_tensor(indexed.regions.boxes)[1:], torch.tensor(BOXES))
    for crop in ("context", "scaled", "crop"):
        torch.testing.assert_close(asked(teacher, photo, crop), rows, atol=1e-5, rtol=0)
    assert (rows[0] - rows[1]).abs().max() > 1e-3, "boxes do not look alike anyhow"


@pytest.mark.parametrize("aggregator", [Keep(), Sum()], ids=["keep", "sum"])
@pytest.mark.parametrize("name", EXTRACTORS)
@pytest.mark.parametrize("regions", [WholeImage(), RmacGrid(levels=2)], ids=["whole", "grid"])
def test_a_whole_photo_is_the_same_vector_as_picture_and_as_box(
    name: str, aggregator: Aggregator, regions: WholeImage | RmacGrid
) -> None:
    if name.startswith("pyramid") or name.startswith("crop"):
        regions = WholeImage() if isinstance(regions, RmacGrid) and isinstance(aggregator, Keep) else regions
    describer = pooled(EXTRACTORS[name], regions=regions)
    for photo in (random_photo(60, 80), random_photo(80, 60, seed=1), random_photo(30, 40, seed=2, size=(61, 80))):
        height, width = photo.size
        picture = torch.as_tensor(aggregator.aggregate(describer.describe([photo])[0]).vectors[:1])
        torch.testing.assert_close(
            torch.as_tensor(VectorPipeline(describer, aggregator).query_whole([photo])[0].vectors),
            picture,
            atol=1e-5,
            rtol=0,
        )
        for crop in ("context", "scaled", "crop", "whole"):
            box = asked(describer, photo, crop, [(0.0, 0.0, float(width), float(height))], aggregator)
            torch.testing.assert_close(box, picture, atol=1e-5, rtol=0, msg=f"{crop}, {photo.size}")


@pytest.mark.parametrize("name", ["crop", "crop, keeping ratios", "crop, padded", "pyramid", "neural codes"])
@pytest.mark.parametrize("aggregator", [Keep(), Sum()], ids=["keep", "sum"])
def test_where_every_region_has_one_size_the_scale_of_the_photo_is_nothing(name: str, aggregator: Aggregator) -> None:
    codes = name == "neural codes"
    describer = (
        NeuralCodes(regions=WholeImage(), arch="mobilenet_v3_small", layer="classifier.1", size=64)
        if codes
        else pooled(EXTRACTORS[name])
    )
    photo = random_photo(60, 80)
    boxes = BOXES[:2]
    scaled, cut = (asked(describer, photo, crop, boxes, aggregator) for crop in ("scaled", "crop"))
    assert torch.equal(scaled, cut)
    one = random_photo(600, 900, seed=4)
    same = Photo("same", one.pixels[:, :60, :80], (60, 80))
    (large,) = VectorPipeline(describer, aggregator).query_boxes(
        [one], [Regions(torch.tensor([[0.0, 0, 80, 60]]), one.size)], "scaled"
    )
    (small,) = VectorPipeline(describer, aggregator).query_whole([same])
    torch.testing.assert_close(torch.as_tensor(large.vectors), torch.as_tensor(small.vectors), atol=1e-5, rtol=0)


def slow_rmac(describer: Describer, pixels: Tensor, factor: float) -> Tensor:
    """R-MAC of a picture that enters the network ``factor`` times as large, square by square."""
    height, width = (math.floor(s * factor + 0.5) for s in pixels.shape[1:])
    backbone = describer.backbone
    features = backbone(as_batch([resize(pixels, (height, width))], "cpu"))[0]  # type: ignore[operator]
    total = torch.zeros(features.shape[0])
    for x1, y1, x2, y2 in rmac_cells(features.shape[1], features.shape[2]).tolist():
        vector = features[:, y1:y2, x1:x2].amax(dim=(1, 2))
        total += vector / vector.norm()
    return total / total.norm()


@torch.no_grad()
def test_a_box_of_a_summed_method_keeps_the_scale_of_its_photo(rmac: Model, photos: Path) -> None:
    # Tolias et al., Gordo et al., Radenovic et al. resize the photo to a longest side of S, then cut the box out
    pixels = torch.from_numpy(np.asarray(Image.open(photos / "0.png")).copy()).permute(2, 0, 1)
    cut = pixels[:, 4:52, 8:72]
    scaled, enlarged = slow_rmac(rmac.describer, cut, 128 / 80), slow_rmac(rmac.describer, cut, 128 / 64)
    assert scaled @ enlarged < 0.999
    for crop, expected in (("context", scaled), ("scaled", scaled), ("crop", enlarged)):
        found = rmac.query(photos / "0.png", [BOX], crop=crop)
        assert found.regions.boxes.tolist() == [list(BOX)]
        torch.testing.assert_close(torch.as_tensor(found.vectors)[0], expected, atol=1e-5, rtol=0, msg=crop)
    default = rmac.query(photos / "0.png", [BOX])
    torch.testing.assert_close(torch.as_tensor(default.vectors)[0], scaled, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        torch.as_tensor(rmac.describe(photos / "0.png", [BOX]).vectors), torch.as_tensor(default.vectors)
    )


@pytest.mark.parametrize("side", ["longest", "shortest"])
@pytest.mark.parametrize("scales", [[1.0], [1.0, 0.5]])
def test_the_input_of_a_scaled_part(side: str, scales: list[float]) -> None:
    photo = random_photo(60, 80)
    net = TinyBackbone(channels=9)
    describer = pooled(Map(size=120, side=side), regions=RmacGrid(), backbone=net, pooling=Max(), scales=scales)
    asked(describer, photo, "scaled", [(8.0, 4.0, 40.0, 52.0)], Sum())
    factor = 120 / (80 if side == "longest" else 60)
    expected = [tuple(math.floor(s * factor * scale + 0.5) for s in (48, 32)) for scale in scales]
    assert [tuple(x.shape[2:]) for x in net.seen] == expected
    net.seen.clear()
    describer.describe([photo])
    assert tuple(net.seen[0].shape[2:]) == tuple(math.floor(s * factor + 0.5) for s in (60, 80)), "it is unchanged"


def test_rows_of_regions_are_asked_for_as_regions_of_their_photo() -> None:
    photo = random_photo(60, 80)
    describer = pooled(Map(size=160))
    (given,) = describer.describe([photo], [Regions(torch.tensor(BOXES), photo.size)])
    assert torch.equal(asked(describer, photo, "context"), torch.as_tensor(given.vectors))
    scaled, cut = (asked(describer, photo, crop, BOXES[:1])[0] for crop in ("scaled", "crop"))
    part = torch.as_tensor(photo.pixels[:, 4:52, 8:72])
    for found, size in ((scaled, (96, 128)), (cut, (120, 160))):
        features = describer.backbone(as_batch([resize(part, size)], "cpu"))[0]
        torch.testing.assert_close(found, l2(features.mean(dim=(1, 2))[None])[0], atol=1e-5, rtol=0)


def test_a_cut_box_is_an_image_of_its_own(model: Model, photos: Path) -> None:
    array = np.asarray(Image.open(photos / "0.png"))
    cut = torch.as_tensor(model.describe(np.ascontiguousarray(array[4:52, 8:72])).vectors)
    assert torch.allclose(torch.as_tensor(model.query(photos / "0.png", [BOX], crop="crop").vectors), cut, atol=1e-5)


def test_the_whole_photo_is_searched_for_in_the_place_of_its_boxes(model: Model, rmac: Model, photos: Path) -> None:
    for one in (model, rmac):
        found = one.query(photos / "0.png", [BOX, (0, 0, 9, 9)], crop="whole")
        assert found.regions.boxes.tolist() == [list(BOX), [0, 0, 9, 9]]
        assert torch.equal(
            torch.as_tensor(found.vectors), torch.as_tensor(one.query(photos / "0.png").vectors).expand(2, -1)
        )


@pytest.mark.parametrize("crop", ["context", "crop", "scaled", "whole"])
def test_a_one_pixel_box_and_no_box(model: Model, rmac: Model, photos: Path, crop: str) -> None:
    for one in (model, rmac):
        assert one.query(photos / "0.png", [(80, 60, 80, 60), (3, 3, 4, 4)], crop=crop).vectors.shape == (2, one.dim)
        assert one.query(photos / "0.png", [], crop=crop).vectors.shape == (0, one.dim)


@pytest.mark.parametrize(
    ("box", "pixels", "size"),
    [
        ((15.0, 20.0, 41.0, 40.0), (2, 2, 4, 4), (20, 20)),  # 1.5, 2, 4.1, 4 decoded pixels
        ((0.0, 0.0, 80.0, 60.0), (0, 0, 8, 6), (60, 80)),
        ((80.0, 60.0, 80.0, 60.0), (7, 5, 8, 6), (10, 10)),
        ((33.0, 12.0, 34.0, 13.0), (3, 1, 4, 2), (10, 10)),
    ],
)
def test_cutting_a_photo_that_was_decoded_smaller(
    box: tuple[float, ...], pixels: tuple[int, ...], size: tuple[int, int]
) -> None:
    photo = Photo("x", torch.arange(3 * 6 * 8, dtype=torch.uint8).reshape(3, 6, 8), (60, 80))
    cut = photo.part(Regions(torch.tensor([box]), (60, 80)))
    x1, y1, x2, y2 = pixels
    assert torch.equal(torch.as_tensor(cut.pixels), torch.as_tensor(photo.pixels)[:, y1:y2, x1:x2])
    assert cut.size == size
