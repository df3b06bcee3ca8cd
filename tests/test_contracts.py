"""Every plug-in of every kind keeps to the contract of its kind.

Plug-ins are found by themselves. A new one needs an entry in ``MINIMAL``: the smallest, fastest settings that build it.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from objemb import registry
from objemb.aggregators.base import Aggregator
from objemb.aggregators.keep import Keep
from objemb.aggregators.sum import Sum
from objemb.config import dump_config, load_training_config
from objemb.datasets.benchmarks.base import Benchmark
from objemb.describers.base import Describer
from objemb.extractors.base import pixel_grid
from objemb.extractors.map import Map
from objemb.heads.base import Head
from objemb.layers.fitted import Fitted
from objemb.models import load_model
from objemb.models.query import describe_boxes, describe_whole
from objemb.ops.grid import Grid
from objemb.ops.images import cut_out
from objemb.ops.normalize import l2
from objemb.pooling.base import Pooling
from objemb.pooling.mean import Mean
from objemb.regions.rmac_grid import RmacGrid
from objemb.rerank._database import Database
from objemb.rerank.base import Reranker, Search
from objemb.structures import Photo, RegionDescriptors, Regions
from objemb.training.data.base import Example, Examples
from objemb.training.optimizer import make_optimizer
from objemb.training.packing import pack, unpack
from objemb.training.settings import RunSettings
from objemb.training.task import Task, build_task
from tests.datasets.pictures import write_ingredients
from tests.tiny import TinyBackbone, plain_photo, random_photo

Settings = dict[str, Any]


def coco_file(folder: Path) -> Settings:
    """Two boxes for the photo ``a``, none for the others."""
    boxes = [{"bbox": [8, 8, 20, 10], "id": 1}, {"bbox": [0, 0, 60, 40], "id": 2}]
    data = {
        "images": [{"id": 7, "file_name": "a", "width": 60, "height": 40}],
        "annotations": [b | {"image_id": 7, "category_id": 3, "area": 1, "iscrowd": 0} for b in boxes],
        "categories": [{"id": 3, "name": "cup"}],
    }
    path = folder / "boxes.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return {"file": path}


def coco_pictures(folder: Path) -> Settings:
    """Two pictures, the first of which has boxes."""
    settings = coco_file(folder)
    data = json.loads(settings["file"].read_text(encoding="utf-8"))
    data["images"] = [data["images"][0] | {"id": id, "file_name": name} for id, name in ((7, "a.png"), (8, "b.png"))]
    for image in data["images"]:
        Image.new("RGB", (60, 40)).save(folder / image["file_name"])
    settings["file"].write_text(json.dumps(data), encoding="utf-8")
    return settings


def picture_folder(folder: Path) -> Settings:
    """A picture in each of two sub-folders."""
    for photo in PHOTOS[:2]:
        file = folder / "pictures" / photo.id / "1.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo.pixels.transpose(1, 2, 0)).save(file)
    return {"sources": folder / "pictures"}


def composition(folder: Path) -> Settings:
    if not (folder / "products").is_dir():
        write_ingredients(folder, products=2, views=1, photos=2)
    settings = {"size": 64, "count": 3, "val_share": 0}
    return {"objects": folder / "products", "backgrounds": folder / "photos", "settings": settings}


def tiny_parts(_: Path) -> Settings:
    return {"regions": RmacGrid(), "backbone": TinyBackbone(), "extractor": Map(size=64), "pooling": Mean()}


RCNN = {
    "arch": "fasterrcnn_mobilenet_v3_large_320_fpn",
    "num_classes": 2,
    "min_size": 48,
    "max_size": 96,
    "score_threshold": 0.0,
    "max_detections": 5,
}
DETECTRON2 = {
    "opts": [
        *("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.RESNETS.STEM_OUT_CHANNELS", 8),
        *("MODEL.FPN.OUT_CHANNELS", 8, "MODEL.ROI_BOX_HEAD.FC_DIM", 8, "MODEL.RPN.POST_NMS_TOPK_TEST", 20),
    ],
    **{key: value for key, value in RCNN.items() if key != "arch"},
}
FASTER = {
    "backbone": {"name": "narrow_resnet", "width": 4, "blocks": [1, 1, 1, 1]},
    "pyramid_strides": [8, 16],
    "channels": 8,
    "box_width": 8,
    "min_size": 48,
    "max_size": 96,
    "score_threshold": 0.0,
    "max_detections": 5,
}
SCENES = {"name": "scenes", "count": 4, "families": 2, "settings": {"size": 48}}
CROPS = {
    "name": "pooled_regions",
    "regions": {"name": "detections"},
    "backbone": {"name": "narrow_resnet", "width": 2, "blocks": [1, 1, 1, 1]},
    "extractor": {"name": "crop", "size": 32},
    "pooling": {"name": "mean"},
}
ATTENTION = {
    "name": "regional_attention",
    "regions": {"name": "rmac_grid", "levels": 2},
    "backbone": {"name": "narrow_resnet", "width": 2, "blocks": [1, 1, 1, 1]},
    "extractor": {"name": "map", "size": 48},
    "hidden": 3,
}
RMAC = {**CROPS, "name": "rmac_network", "extractor": {"name": "map", "size": 48}, "dim": 3}
STUDENT = {
    "name": "one_pass",
    "detector": {"name": "faster_rcnn", **FASTER},
    "head": {"name": "embedding", "dim": 16, "width": 8, "weights": "random"},
    "min_score": 0.0,
}
MINIMAL: dict[str, dict[str, Settings | Callable[[Path], Settings]]] = {
    "aggregators": {"keep": {}, "sum": {}},
    "backbones": {
        "detector_trunk": {"detector": {"name": "torchvision_rcnn", **RCNN}},
        "narrow_resnet": {"width": 4, "blocks": [1, 1, 1, 1]},
        "timm_net": {"arch": "test_resnet"},
        "torchvision_cnn": {"arch": "resnet18"},
    },
    "datasets.benchmarks": {
        "folder": {},
        "google_landmark_boxes": {},
        "google_landmarks": {},
        "google_landmarks_recognition": {},
        "holidays": {},
        "instre": {},
        "oxford5k": {},
        "paris6k": {},
        "roxford5k": {},
        "rparis6k": {},
        "stanford_online_products": {},
        "ukbench": {},
    },
    "describers": {
        "class_weighted": {
            "backbone": {"name": "torchvision_cnn", "arch": "resnet18", "classes": True},
            "extractor": {"name": "map", "size": 64},
            "classes": 3,
        },
        "factorization": lambda _: {"backbone": TinyBackbone(), "extractor": Map(size=64), "rank": 3},
        "neural_codes": {
            "regions": {"name": "whole_image"},
            "arch": "mobilenet_v3_small",
            "layer": "classifier.1",
            "size": 64,
        },
        "one_pass": {
            "detector": {"name": "torchvision_rcnn", **RCNN},
            "head": {"name": "embedding", "dim": 6, "width": 8},
            "min_score": 0.0,
        },
        "pooled_regions": tiny_parts,
        "regional_aggregation": lambda _: {"backbone": TinyBackbone(), "extractor": Map(size=64), "reduced": 3},
        "regional_attention": lambda _: {
            "regions": RmacGrid(),
            "backbone": TinyBackbone(),
            "extractor": Map(size=64),
            "hidden": 3,
        },
        "rmac_network": lambda folder: {**tiny_parts(folder), "dim": 4},
    },
    "detectors": {
        "detectron2_rcnn": DETECTRON2,
        "faster_rcnn": FASTER,
        "stored_boxes": coco_file,
        "torchvision_rcnn": RCNN,
    },
    "training.data": {
        "coco": coco_pictures,
        "compositions": composition,
        "folder": picture_folder,
        "mixture": lambda folder: {"data": [SCENES, {"name": "folder", **picture_folder(folder)}]},
        "photos": picture_folder,
        "scenes": {k: v for k, v in SCENES.items() if k != "name"},
    },
    "extractors": {
        "crop": {"size": 32, "batch": 3},
        "map": {"size": 64},
        "pyramid": {"sizes": [32, 64], "target": 20},
    },
    "heads": {
        "embedding": {"dim": 6, "width": 8},
        "tail": {
            "backbone": {"name": "narrow_resnet", "width": 4, "blocks": [1, 1, 1, 1]},
            "pooling": {"name": "mean"},
            "dim": 6,
            "samples": 5,
        },
    },
    "pooling": {
        "crow": {},
        "gem": {},
        "max": {},
        "mean": {},
        "netvlad": {"clusters": 3},
        "scda": {},
        "selective": {},
        "spoc": {},
        "triangulation": {"dim": 3, "words": 4, "dropped": 2},
    },
    "rerank": {
        "aml_localization": {"top": 3, "mixed": 1, "size": 64, "levels": 2},
        "class_localization": {"top": 3, "mixed": 1},
        "database_augmentation": {"top": 2},
        "diffusion": {"neighbours": 4, "query_neighbours": 2},
        "joint_factorization": {"top": 2, "size": 64, "query_size": 32, "order": "similarity"},
        "query_expansion": {"top": 2},
        "region_expansion": {"top": 2},
        "region_match": {"look": True},
        "region_rerank": {
            "top": 3,
            "regions": {"name": "rpn_proposals", "detector": {"name": "faster_rcnn", **FASTER}},
        },
        "spatial_verification": {"top": 3, "features": 20},
    },
    "regions": {
        "detections": {},
        "rmac_grid": {},
        "rpn_proposals": {"detector": {"name": "faster_rcnn", **FASTER}},
        "whole_image": {},
    },
    "training.tasks": {
        "classify": {"describer": CROPS, "data": SCENES, "validation": SCENES, "whiten": {"dim": 2}},
        "detect": {"describer": STUDENT, "data": SCENES, "validation": SCENES},
        "distill": {"describer": STUDENT, "teacher": CROPS, "data": SCENES, "validation": SCENES},
        "attend": {"describer": ATTENTION, "data": SCENES, "validation": SCENES},
        "rank": {"describer": RMAC, "data": SCENES, "validation": SCENES, "negatives": 1},
    },
}

#: The describers, of those above, that some re-rankers need; the others get ``pooled_regions``.
RERANK_DESCRIBERS: dict[str, str] = {"class_localization": "class_weighted"}

#: What some plug-ins import.
NEEDS = {"timm_net": "timm", "detectron2_rcnn": "detectron2", "regional_aggregation": "cv2"}

PHOTOS = [
    random_photo(40, 60, id="a"),
    random_photo(60, 40, seed=1, id="b"),
    random_photo(1, 400, seed=2, id="strip"),
    random_photo(1, 1, seed=3, id="pixel"),
    random_photo(30, 45, seed=4, id="scaled down", size=(299, 450)),
    random_photo(40, 60, seed=5, id="like a"),
]
GIVEN = [
    Regions(torch.tensor([[3.0, 4, 50, 30], [7, 7, 7, 7], [60, 40, 60, 40], [0, 0, 1, 1]]), PHOTOS[0].size),
    Regions.empty(PHOTOS[1].size),
    *(Regions.whole(p.size) for p in PHOTOS[2:]),
]


def build(kind: str, name: str, folder: Path) -> Any:
    if name not in MINIMAL.get(kind, {}):
        pytest.fail(
            f"objemb/{kind}/{name}.py has no settings here: add {name!r} to MINIMAL[{kind!r}] in "
            "tests/test_contracts.py, the smallest and fastest constructor arguments that build it"
        )
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    settings = MINIMAL[kind][name]
    torch.manual_seed(0)
    built = registry.build(
        registry.load(kind, name), {"name": name, **(settings(folder) if callable(settings) else settings)}
    )
    if isinstance(built, Describer):
        for part_name, part in built.fitted_parts().items():
            part.fit(built.samples(part_name, PHOTOS), fitted_on="photos of the tests")
    if isinstance(built, Pooling):
        built.connect(4)
        if isinstance(built, Fitted):
            built.fit(torch.randn(200, 4, generator=torch.Generator().manual_seed(0)), fitted_on="noise")
    return built


def every(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", registry.names(kind))


def in_frame(regions: Regions, photo: Photo) -> bool:
    height, width = photo.size
    low, high = regions.boxes[:, :2], regions.boxes[:, 2:]
    return bool((low >= 0).all() and (low <= high).all() and (high <= [width, height]).all())


def is_whole(regions: Regions, photo: Photo) -> bool:
    return regions.boxes[0].tolist() == [0, 0, photo.size[1], photo.size[0]]


def unit_or_zero(vectors: np.ndarray | Tensor) -> bool:
    lengths = torch.as_tensor(vectors).norm(dim=1)
    return bool(((lengths - 1).abs() < 1e-4).logical_or(lengths == 0).all())


@pytest.mark.parametrize("kind", sorted(set(registry.KINDS.values())))
def test_constructors_are_fit_for_settings(kind: str) -> None:
    for name in registry.names(kind):
        cls = registry.load(kind, name)
        arguments = registry.arguments(registry.load(kind, name))
        assert cls.__doc__, f"{kind}/{name}: expected a docstring on the class"
        assert "name" not in arguments, f"{kind}/{name}: 'name' is the key that chooses the plug-in"


@pytest.mark.parametrize("kind", sorted(MINIMAL))
def test_no_settings_are_left_over(kind: str) -> None:
    assert set(MINIMAL[kind]) <= set(registry.names(kind)), "plug-ins that no longer exist"


@every("pooling")
class TestPooling:
    MAPS = torch.randn(2, 4, 6, 7, generator=torch.Generator().manual_seed(0))

    def test_whole_maps(self, name: str, tmp_path: Path) -> None:
        pooling = build("pooling", name, tmp_path)
        assert isinstance(pooling, nn.Module)
        for count in (2, 0):
            assert pooling(self.MAPS[:count]).shape == (count, pooling.length(4))
        assert torch.isfinite(pooling(self.MAPS)).all()

    def test_rectangles_are_whole_maps_cut_out(self, name: str, tmp_path: Path) -> None:
        pooling = build("pooling", name, tmp_path)
        cells = torch.tensor([[0, 0, 0, 7, 6], [1, 2, 1, 5, 4], [1, 6, 5, 7, 6], [0, 0, 3, 7, 4], [1, 2, 1, 5, 4]])
        slow = torch.cat([pooling(self.MAPS[n : n + 1, :, y1:y2, x1:x2]) for n, x1, y1, x2, y2 in cells.tolist()])
        for maps in (self.MAPS, self.MAPS.contiguous(memory_format=torch.channels_last)):
            assert (pooling.rectangles(maps, cells) - slow).abs().max() < 1e-5
            assert pooling.rectangles(maps, cells[:0]).shape == (0, slow.shape[1])

    def test_weights(self, name: str, tmp_path: Path) -> None:
        pooling = build("pooling", name, tmp_path)
        weights = torch.zeros(2, 6, 7)
        assert pooling(self.MAPS, weights).abs().max() == 0
        assert torch.allclose(pooling(self.MAPS, weights + 1), pooling(self.MAPS), atol=1e-5)
        weights[:, 1:4, 2:5] = 1
        assert torch.allclose(pooling(self.MAPS, weights), pooling(self.MAPS[:, :, 1:4, 2:5]), atol=1e-5)


@every("backbones")
class TestBackbones:
    def sizes(self, net: Any) -> list[tuple[int, int]]:
        """Odd sizes where the network takes them, and one as narrow as a cell."""
        unit = net.multiple
        sides = [(2 * net.stride, 3 * net.stride + 1), (97, 65), (net.stride, 4 * net.stride)]
        return [(-(-height // unit) * unit, -(-width // unit) * unit) for height, width in sides]

    @torch.no_grad()
    def test_declared_channels_and_stride(self, name: str, tmp_path: Path) -> None:
        net = build("backbones", name, tmp_path)
        for height, width in self.sizes(net):
            maps = net(torch.rand(2, 3, height, width))
            assert maps.dtype == torch.float32
            assert torch.isfinite(maps).all()
            assert maps.shape[:2] == (2, net.channels)
            for cells, side in zip(maps.shape[2:], (height, width), strict=True):
                assert cells in (side // net.stride, -(-side // net.stride)), (height, width)

    def test_cells_look_where_the_offset_says(self, name: str, tmp_path: Path) -> None:
        """The middle of the pixels that a cell depends on, weighted by how much."""
        net = build("backbones", name, tmp_path)
        side = -(-9 * net.stride // net.multiple) * net.multiple
        generator, weights = torch.Generator().manual_seed(0), torch.zeros(side, side)
        for _ in range(8):
            pixels = torch.rand(1, 3, side, side, generator=generator).requires_grad_()
            net(pixels)[0, :, 4, 4].square().sum().backward()
            assert pixels.grad is not None
            weights += pixels.grad[0].square().sum(dim=0)
        steps = torch.arange(side) + 0.5
        middles = torch.stack([(weights.sum(dim=d) * steps).sum() / weights.sum() for d in (0, 1)])
        assert (middles - net.offset - 4.5 * net.stride).abs().max() < net.stride / 4

    def test_offsets_of_all_maps(self, name: str, tmp_path: Path) -> None:
        net = build("backbones", name, tmp_path)
        assert net.offsets().keys() == net.stages.keys()
        assert net.offsets().get(net.stride, net.offset) == net.offset

    @torch.no_grad()
    def test_alone_or_in_a_batch_in_eval_mode(self, name: str, tmp_path: Path) -> None:
        net = build("backbones", name, tmp_path)
        net.train()
        assert not any(m.training for m in net.modules()), "a backbone stays in eval mode"
        pixels = torch.rand(3, 3, *self.sizes(net)[0])
        before = pixels.clone()
        together = net(pixels)
        alone = torch.cat([net(p[None]) for p in pixels])
        assert (together - alone).abs().max() < 1e-4 * max(1.0, float(alone.abs().max()))
        assert torch.equal(pixels, before), "a backbone does not edit its input"

    @torch.no_grad()
    def test_channels_are_not_interchangeable(self, name: str, tmp_path: Path) -> None:
        net = build("backbones", name, tmp_path)
        pixels = torch.rand(1, 3, *self.sizes(net)[0])
        assert not torch.allclose(net(pixels), net(pixels.flip(1)))

    def test_built_without_weights(self, name: str, tmp_path: Path) -> None:
        arguments = registry.arguments(registry.load("backbones", name))
        assert "detector" in arguments or arguments["weights"].default is None


@every("extractors")
class TestExtractors:
    def pool(self, extractor: Any, photos: list[Photo], regions: list[Regions], net: TinyBackbone) -> list[Tensor]:
        return extractor.see(photos, net).pool(regions, Mean())

    def test_shapes_and_empties(self, name: str, tmp_path: Path) -> None:
        extractor = build("extractors", name, tmp_path)
        vectors = self.pool(extractor, PHOTOS, GIVEN, TinyBackbone())
        assert [v.shape for v in vectors] == [(len(r), 5) for r in GIVEN]
        assert all(torch.isfinite(v).all() for v in vectors)
        assert all((v.abs().sum(dim=1) > 0).all() for v in vectors), "every region gets a vector"
        assert self.pool(extractor, [], [], TinyBackbone()) == []

    def test_grids_cover_the_photos(self, name: str, tmp_path: Path) -> None:
        seen = build("extractors", name, tmp_path).see(PHOTOS, TinyBackbone())
        assert len(seen.grids) == len(PHOTOS)
        for grid, photo in zip(seen.grids, PHOTOS, strict=True):
            for cells, cell, side in zip((grid.height, grid.width), grid.cell, photo.size, strict=True):
                assert cells >= 1
                assert abs(cells * cell - side) < cell + 1e-6

    def test_alone_or_in_a_batch(self, name: str, tmp_path: Path) -> None:
        extractor = build("extractors", name, tmp_path)
        together = self.pool(extractor, PHOTOS, GIVEN, TinyBackbone())
        for photo, regions, vectors in zip(PHOTOS, GIVEN, together, strict=True):
            (alone,) = self.pool(extractor, [photo], [regions], TinyBackbone())
            assert torch.allclose(alone, vectors, atol=1e-5)

    def test_the_network_sees_rgb_from_0_to_1(self, name: str, tmp_path: Path) -> None:
        photo = plain_photo(40, 60, (255, 0, 51))
        for multiple in (1, 14):
            net = TinyBackbone(multiple=multiple)
            self.pool(build("extractors", name, tmp_path), [photo], [Regions.whole(photo.size)], net)
            assert net.seen
            for pixels in net.seen:
                assert pixels.dtype == torch.float32
                assert pixels.shape[2] % multiple == 0
                assert pixels.shape[3] % multiple == 0
                expected = torch.tensor([1.0, 0.0, 0.2])[None, :, None, None].expand_as(pixels)
                assert torch.allclose(pixels, expected)

    def test_photos_are_not_edited(self, name: str, tmp_path: Path) -> None:
        before = [torch.tensor(p.pixels) for p in PHOTOS]
        self.pool(build("extractors", name, tmp_path), PHOTOS, GIVEN, TinyBackbone())
        assert all(torch.equal(torch.as_tensor(p.pixels), b) for p, b in zip(PHOTOS, before, strict=True))

    def test_scale_changes_the_size_of_the_input(self, name: str, tmp_path: Path) -> None:
        sides = []
        for scale in (1.0, 2.0):
            net = TinyBackbone()
            extractor = build("extractors", name, tmp_path)
            extractor.see(PHOTOS[:1], net, scale).pool([Regions.whole(PHOTOS[0].size)], Mean())
            sides.append(max(net.seen[0].shape[2:]))
        assert sides[1] == 2 * sides[0]

    def test_a_part_is_seen_as_large_as_in_its_photo_or_at_a_size_of_its_own(self, name: str, tmp_path: Path) -> None:
        extractor, part = build("extractors", name, tmp_path), PHOTOS[0]
        seen = []
        for whole in (part.size, (2 * part.size[0], 2 * part.size[1])):
            net = TinyBackbone()
            self.pool(extractor.for_part(part.size, whole), [part], [Regions.whole(part.size)], net)
            seen.append(tuple(net.seen[0].shape[2:]))
        halved = all(abs(2 * small - large) <= 1 for large, small in zip(*seen, strict=True))
        assert halved or seen[0] == seen[1]
        net = TinyBackbone()
        self.pool(extractor, [part], [Regions.whole(part.size)], net)
        assert tuple(net.seen[0].shape[2:]) == seen[0], "the extractor itself does not change"

    def test_runs_where_the_backbone_is(self, name: str, tmp_path: Path) -> None:
        """Tensors on "meta" take part in nothing that happens elsewhere, as those of an accelerator."""
        net = TinyBackbone().to("meta")
        assert {v.device.type for v in self.pool(build("extractors", name, tmp_path), PHOTOS, GIVEN, net)} == {"meta"}

    def test_decode_side(self, name: str, tmp_path: Path) -> None:
        side = build("extractors", name, tmp_path).decode_side()
        assert side is None or (isinstance(side, int) and side > 0)


@every("regions")
class TestRegions:
    def test_region_0_is_the_whole_image(self, name: str, tmp_path: Path) -> None:
        source = build("regions", name, tmp_path)
        coarse = [Grid(3, 5, (p.size[0] / 2.5, p.size[1] / 5)) for p in PHOTOS]
        for grids in ([pixel_grid(p) for p in PHOTOS], coarse):
            found = source.find(PHOTOS, grids)
            assert len(found) == len(PHOTOS)
            for regions, photo in zip(found, PHOTOS, strict=True):
                assert regions.size == photo.size
                assert is_whole(regions, photo)
                assert in_frame(regions, photo)

    def test_no_photos(self, name: str, tmp_path: Path) -> None:
        assert build("regions", name, tmp_path).find([], []) == []


@every("detectors")
class TestDetectors:
    def test_boxes(self, name: str, tmp_path: Path) -> None:
        detector = build("detectors", name, tmp_path)
        found = detector.detect(PHOTOS)
        assert len(found) == len(PHOTOS)
        assert sum(len(f) for f in found) > 0, "expected settings with which something is found"
        for regions, photo in zip(found, PHOTOS, strict=True):
            assert regions.size == photo.size
            assert isinstance(regions.boxes, np.ndarray)
            assert regions.classes in ((), tuple(detector.classes))
            assert in_frame(regions, photo)
            assert regions.scores.tolist() == sorted(regions.scores.tolist(), reverse=True)
            assert (regions.labels >= 0).all()
            if "masks" in regions.extras:
                masks = regions.extras["masks"]
                assert masks.dtype == torch.uint8
                assert masks.ndim == 3
                assert (masks <= 1).all()

    def test_no_photos(self, name: str, tmp_path: Path) -> None:
        assert build("detectors", name, tmp_path).detect([]) == []

    def test_alone_or_in_a_batch_in_eval_mode(self, name: str, tmp_path: Path) -> None:
        detector = build("detectors", name, tmp_path)
        if isinstance(detector, nn.Module):
            detector.train()
            assert not any(m.training for m in detector.modules()), "a detector stays in eval mode"
        for photo, together in zip(PHOTOS, detector.detect(PHOTOS), strict=True):
            (alone,) = detector.detect([photo])
            assert torch.allclose(
                torch.as_tensor(alone.boxes), torch.as_tensor(together.boxes), atol=0.01 * max(photo.size)
            )
            assert torch.allclose(torch.as_tensor(alone.scores), torch.as_tensor(together.scores), atol=1e-3)


@every("aggregators")
class TestAggregators:
    def test_rows(self, name: str, tmp_path: Path) -> None:
        aggregator = build("aggregators", name, tmp_path)
        vectors = torch.nn.functional.normalize(torch.randn(6, 5, generator=torch.Generator().manual_seed(0)))
        grids = [pixel_grid(p) for p in PHOTOS]
        for photo, whole_and_grid, given in zip(PHOTOS, RmacGrid(levels=1).find(PHOTOS, grids), GIVEN, strict=True):
            for regions in (whole_and_grid[:6], given, given[:1], given[:0]):
                for scale in (1, 0):
                    rows = vectors[: len(regions)] * scale
                    described = RegionDescriptors(photo.id, regions, rows, photo.metadata)
                    found = aggregator.aggregate(described)
                    assert (found.image, found.metadata) == (photo.id, photo.metadata)
                    assert len(found) <= len(regions)
                    assert (len(found) == 0) == (len(regions) == 0), "an image stays searchable"
                    assert in_frame(found.regions, photo)
                    assert found.dim == 5
                    assert found.vectors.dtype == np.float32
                    assert unit_or_zero(found.vectors)


#: Re-rankers that look into the photos of hits, and of queries for more than their rows.
LOOKING = ("aml_localization", "class_localization", "joint_factorization", "region_rerank", "spatial_verification")


@every("rerank")
class TestRerankers:
    """A search for the left halves of three photos, and for nothing, in five photos, one of which has no rows."""

    def search(self, name: str, folder: Path, rows: int | None = None) -> Search:
        describer = build("describers", RERANK_DESCRIBERS.get(name, "pooled_regions"), folder)
        photos = PHOTOS[:5]
        found = describer.describe(photos)
        database = Database.of(
            [*(d[:rows] for d in found[:4]), found[4][:0]], describer.dim, {p.id: p for p in photos}.__getitem__
        )
        halves = [Regions(torch.tensor([[0.0, 0, p.size[1] / 2, p.size[0]]]), p.size) for p in photos[:3]]
        queries = [*describer.describe(photos[:3], halves), found[3][:0]]
        results = database.search(queries, len(database))
        return Search(tuple(queries), tuple(results), database, describer, photos.__getitem__)

    def told(self, search: Search) -> list[Any]:
        return [
            [r.to_json() for r in search.results],
            [q.vectors.tolist() for q in search.queries],
            search.database.vectors.tolist(),
        ]

    @pytest.mark.parametrize("rows", [None, 1])
    def test_results_in_results_out(self, name: str, tmp_path: Path, rows: int | None) -> None:
        reranker: Reranker = build("rerank", name, tmp_path)
        assert reranker.depth is None or reranker.depth >= 1
        before = self.search(name, tmp_path, rows)
        given = self.told(before)
        after = reranker.rerank(before)
        assert self.told(before) == given, "a re-ranker does not edit what it is given"
        assert self.told(reranker.rerank(before)) == self.told(after)
        assert [q.image for q in after.queries] == [q.image for q in before.queries]
        assert after.database.images == before.database.images
        for old, new in zip(before.results, after.results, strict=True):
            assert new.query_image == old.query_image
            assert {hit.image for hit in new} >= {hit.image for hit in old}
        assert len(after.results[3]) == 0, "a query without rows finds nothing"

    def test_boxes_are_in_the_photos(self, name: str, tmp_path: Path) -> None:
        before = self.search(name, tmp_path)
        for number, result in enumerate(build("rerank", name, tmp_path).rerank(before).results):
            for hit in result:
                for (x1, y1, x2, y2), photo in (
                    (hit.box, before.found_photo(hit.image)),
                    (hit.query_box, before.query_photo(number)),
                ):
                    assert -0.01 <= x1 <= x2 <= photo.size[1] + 0.01
                    assert -0.01 <= y1 <= y2 <= photo.size[0] + 0.01

    @pytest.mark.parametrize("gone", [("photo0",), tuple(p.id for p in PHOTOS[:5])])
    def test_a_photo_that_cannot_be_opened_costs_no_answer(
        self, name: str, tmp_path: Path, gone: tuple[str, ...]
    ) -> None:
        before = self.search(name, tmp_path)

        def open_photo(image: str) -> Photo:
            if image in gone:
                raise FileNotFoundError(image)
            return next(p for p in PHOTOS if p.id == image)

        missing = replace(before, database=replace(before.database, open_photo=open_photo))
        results = build("rerank", name, tmp_path).rerank(missing).results
        for old, new in zip(before.results, results, strict=True):
            assert {hit.image for hit in new} == {hit.image for hit in old}
        if len(gone) > 1 and name in LOOKING:
            assert [r.hits for r in results] == [r.hits for r in before.results]

    def test_scores_have_a_scale(self, name: str, tmp_path: Path) -> None:
        scale = build("rerank", name, tmp_path).scale
        assert scale is None or (isinstance(scale, str) and scale)

    def test_nothing_to_do(self, name: str, tmp_path: Path) -> None:
        reranker = build("rerank", name, tmp_path)
        full = self.search(name, tmp_path)
        assert reranker.rerank(replace(full, queries=(), results=())).results == ()
        nothing = tuple(replace(r, hits=()) for r in full.results)
        assert len(reranker.rerank(replace(full, results=nothing)).results) == 4
        empty = replace(full, results=nothing, database=Database.of([], full.database.dim))
        assert [len(r) for r in reranker.rerank(empty).results] == [0] * 4


@every("heads")
class TestHeads:
    LEVELS = MappingProxyType({"0": (5, 4), "1": (5, 8), "trunk8": (8, 8)})
    BOXES = (
        torch.tensor([[0.0, 0, 40, 40], [3.5, 7, 21, 30], [40, 40, 40, 40]]),
        torch.zeros(0, 4),
        torch.tensor([[8.0, 8, 9, 9]]),
    )

    def head(self, name: str, folder: Path) -> tuple[Head, list[Tensor]]:
        """A head that is connected, and maps of three images of 40 x 48 pixels."""
        head = build("heads", name, folder)
        taken = head.connect(self.LEVELS, ("0", "1"))
        generator = torch.Generator().manual_seed(0)
        sizes = [(self.LEVELS[n][0], 40 // self.LEVELS[n][1], 48 // self.LEVELS[n][1]) for n in taken]
        return head, [torch.rand(3, *size, generator=generator) for size in sizes]

    def test_one_unit_vector_per_box_in_the_order_of_images(self, name: str, tmp_path: Path) -> None:
        head, features = self.head(name, tmp_path)
        vectors = head(features, self.BOXES)
        assert vectors.shape == (4, head.dim)
        assert vectors.dtype == torch.float32
        assert unit_or_zero(vectors)
        for i, rows in enumerate(vectors.split([3, 0, 1])):
            alone = head([f[i : i + 1] for f in features], self.BOXES[i : i + 1])
            assert torch.allclose(alone, rows, atol=1e-5), "a vector depends on its box alone"
        assert torch.allclose(l2(head(features, self.BOXES, unit=False)), vectors, atol=1e-5)

    def test_training_reaches_the_head_and_the_features(self, name: str, tmp_path: Path) -> None:
        head, features = self.head(name, tmp_path)
        before = head(features, self.BOXES)
        head.train()
        assert not any(m.training for m in head.modules())
        assert torch.equal(head(features, self.BOXES), before)
        for level in features:
            level.requires_grad_()
        head(features, self.BOXES)[:, 0].sum().backward()
        assert all(p.grad is not None for p in head.parameters())
        for level in features:
            assert level.grad is not None
            assert level.grad[0].any()
            assert not level.grad[1].any(), "an image without boxes"

    def test_no_boxes_and_no_images(self, name: str, tmp_path: Path) -> None:
        head, features = self.head(name, tmp_path)
        none = head(features, [torch.zeros(0, 4)] * 3)
        assert none.shape == (0, head.dim)
        none.sum().backward()
        assert all(p.grad is not None and not p.grad.any() for p in head.parameters()), "a training step like any other"
        assert head([f[:0] for f in features], []).shape == (0, head.dim)

    def test_mistakes_are_named(self, name: str, tmp_path: Path) -> None:
        head, features = self.head(name, tmp_path)
        with pytest.raises(ValueError, match=rf"expected {len(features)} levels, found {len(features) + 1}"):
            head([*features, features[0]], self.BOXES)
        with pytest.raises(ValueError, match=r"features\[0\]: expected shape \(3, \d, any, any\), found \(3, 9"):
            head([torch.zeros(3, 9, 5, 6), *features[1:]], self.BOXES)
        with pytest.raises(ValueError, match=r"boxes\[1\]: expected shape \(any, 4\), found \(2, 5\)"):
            head(features, [self.BOXES[0], torch.zeros(2, 5), self.BOXES[2]])
        with pytest.raises(RuntimeError, match="not connected yet"):
            head.connect(self.LEVELS, ("0", "1"))


@every("describers")
class TestDescribers:
    def test_looking(self, name: str, tmp_path: Path) -> None:
        describer: Describer = build("describers", name, tmp_path)
        together = describer.describe(PHOTOS)
        assert len(together) == len(PHOTOS)
        for photo, described in zip(PHOTOS, together, strict=True):
            assert (described.image, described.metadata) == (photo.id, photo.metadata)
            assert is_whole(described.regions, photo)
            assert in_frame(described.regions, photo)
            assert described.dim == describer.dim
            assert isinstance(described.vectors, np.ndarray)
            assert described.vectors.dtype == np.float32
            assert unit_or_zero(described.vectors)
            (alone,) = describer.describe([photo])
            assert torch.allclose(torch.as_tensor(alone.vectors), torch.as_tensor(described.vectors), atol=1e-5)

    def test_given_regions(self, name: str, tmp_path: Path) -> None:
        describer = build("describers", name, tmp_path)
        for given, described in zip(GIVEN, describer.describe(PHOTOS, GIVEN), strict=True):
            assert torch.equal(torch.as_tensor(described.regions.boxes), torch.as_tensor(given.boxes))
            assert described.vectors.shape == (len(given), describer.dim)
        (looked,) = describer.describe(PHOTOS[:1], [None])
        assert is_whole(looked.regions, PHOTOS[0])

    @pytest.mark.parametrize("aggregator", [Keep(), Sum()], ids=["keep", "sum"])
    def test_a_query_box_is_seen_at_the_scale_that_is_asked_for(
        self, name: str, aggregator: Aggregator, tmp_path: Path
    ) -> None:
        describer, photo = build("describers", name, tmp_path), random_photo(96, 128, seed=7)
        box = Regions(torch.tensor([[16.0, 8, 80, 72]]), photo.size)
        scaled, cut = (describe_boxes(describer, aggregator, photo, box, c).vectors for c in ("scaled", "crop"))
        extractor = getattr(describer, "extractor", None)
        summed_in_photo = not aggregator.per_region and describer.sees_boxes_in_photo(False)
        if extractor is None or summed_in_photo:  # a box has the scale of its photo by its nature
            expected = describe_boxes(describer, aggregator, photo, box, "context").vectors
        elif isinstance(extractor, Map):
            describer.extractor = Map(size=extractor.size * 64 / 128)
            expected = describe_whole(describer, aggregator, cut_out(photo, box)).vectors
            assert not np.allclose(scaled, cut, atol=1e-3), "the scale is not listened to"
        else:
            expected = cut
        torch.testing.assert_close(scaled, expected, atol=1e-5, rtol=0)

    def test_no_photos(self, name: str, tmp_path: Path) -> None:
        assert build("describers", name, tmp_path).describe([]) == []

    def test_stays_in_eval_mode(self, name: str, tmp_path: Path) -> None:
        describer = build("describers", name, tmp_path)
        assert isinstance(describer, nn.Module)
        describer.train()
        assert not any(m.training for m in describer.modules())

    def test_decode_side(self, name: str, tmp_path: Path) -> None:
        side = build("describers", name, tmp_path).decode_side()
        assert side is None or (isinstance(side, int) and side > 0)


@every("datasets.benchmarks")
class TestBenchmarks:
    def test_says_what_is_missing_and_where_it_goes(self, name: str, tmp_path: Path) -> None:
        benchmark: Benchmark = build("datasets.benchmarks", name, tmp_path)
        assert len(benchmark.missing(tmp_path)) > 0
        assert not list(tmp_path.iterdir())
        assert benchmark.layout.startswith("Expected below the folder")
        assert all(len(line) <= 120 for line in benchmark.layout.splitlines())
        assert (benchmark.title, benchmark.variant) == (name, "")


@every("training.data")
class TestExamples:
    def test_an_example_is_a_function_of_its_number(self, name: str, tmp_path: Path) -> None:
        first, second = (build("training.data", name, tmp_path) for _ in range(2))
        assert len(first) == len(second) > 0
        for number in reversed(range(len(first))):
            one, other = first[number], second[number]
            assert one.photo.id == other.photo.id
            assert torch.equal(torch.as_tensor(one.photo.pixels), torch.as_tensor(other.photo.pixels))
            assert one.regions.to_json() == other.regions.to_json()

    def test_boxes_labels_and_identities(self, name: str, tmp_path: Path) -> None:
        examples: Examples = build("training.data", name, tmp_path)
        for number in range(len(examples)):
            example = examples[number]
            assert in_frame(example.regions, example.photo)
            assert example.instances.shape == (len(example.regions),)
            assert (example.instances < max(1, len(examples.instances))).all()
            assert example.regions.classes in ((), tuple(examples.classes))

    def test_ids_are_different(self, name: str, tmp_path: Path) -> None:
        examples = build("training.data", name, tmp_path)
        ids = [examples[i].photo.id for i in range(len(examples))]
        assert len(set(ids)) == len(ids) or name == "mixture", "a mixture repeats the shorter of its sources"

    def test_beyond_the_last(self, name: str, tmp_path: Path) -> None:
        examples = build("training.data", name, tmp_path)
        for number in (len(examples), -1):
            with pytest.raises(IndexError):
                examples[number]

    def test_they_reach_other_processes(self, name: str, tmp_path: Path) -> None:
        examples = pickle.loads(pickle.dumps(build("training.data", name, tmp_path)))
        (there,) = unpack(pack([examples[0]]))
        assert there.regions.to_json() == examples[0].regions.to_json()


@every("training.tasks")
class TestTasks:
    def task(self, name: str, folder: Path) -> Task:
        build("training.tasks", name, folder)  # says what is missing
        settings = MINIMAL["training.tasks"][name]
        part = {"name": name, **(settings(folder) if callable(settings) else settings)}
        file = folder / "config.yaml"
        file.write_text(dump_config({"task": part}), encoding="utf-8")
        return build_task(load_training_config(file)["task"])

    def test_a_step(self, name: str, tmp_path: Path) -> None:
        task = self.task(name, tmp_path).train()
        optimizer = make_optimizer(task.parameter_groups(), RunSettings(steps=1, batch=2, lr=0.01))
        before = {k: v.clone() for k, v in task.state_dict().items()}
        terms = task.losses([task.examples[0], task.examples[1]])
        assert all(v.ndim == 0 and torch.isfinite(v) for v in terms.values())
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        assert any(not torch.equal(v, before[k]) for k, v in task.state_dict().items())

    def test_a_step_repeats_with_its_seed(self, name: str, tmp_path: Path) -> None:
        task = self.task(name, tmp_path).train()
        batch = [task.examples[0], task.examples[1]]
        for _ in range(2):  # the norms of a task may go on learning, but not so as to change what it learns from
            torch.manual_seed(3)
            found = {k: v.detach() for k, v in task.losses(batch).items()}
        torch.manual_seed(3)
        again = task.losses(batch)
        assert all(torch.allclose(v.detach(), found[k], rtol=1e-4) for k, v in again.items())

    def test_a_batch_without_boxes(self, name: str, tmp_path: Path) -> None:
        task = self.task(name, tmp_path).train()
        photo = task.examples[0].photo
        terms = task.losses([Example(photo, Regions.empty(photo.size))])
        assert all(torch.isfinite(v) for v in terms.values())

    @torch.no_grad()
    def test_figures_pictures_and_a_model(self, name: str, tmp_path: Path) -> None:
        task = self.task(name, tmp_path).eval()
        assert all(isinstance(v, float) for v in task.validate().values())
        for picture in task.pictures().values():
            assert picture.dtype == torch.uint8
            assert picture.shape[0] == 3
        model = task.model()
        model.save(tmp_path / "model")
        photo = task.examples[0].photo
        torch.testing.assert_close(
            torch.as_tensor(load_model(tmp_path / "model").query(photo).vectors),
            torch.as_tensor(model.query(photo).vectors),
        )

    def test_state_is_tensors(self, name: str, tmp_path: Path) -> None:
        task = self.task(name, tmp_path)
        torch.save(task.state_dict(), tmp_path / "state.pt")
        task.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
