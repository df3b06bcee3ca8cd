"""What is exported: the program of every describer gives the rows of its model, or is refused for a named reason."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from objemb import registry
from objemb.aggregators.base import Aggregator
from objemb.aggregators.keep import Keep
from objemb.aggregators.sum import Sum
from objemb.describers.base import Describer, DescriptionProgram
from objemb.describers.capabilities import FeatureDescriber
from objemb.detectors.capabilities import NetworkDetector
from objemb.export.graphs import traced
from objemb.export.run import MIN_TORCH, torch_version
from objemb.extractors.base import Extractor
from objemb.layers.whitening import Whitening
from objemb.models.pipeline import VectorPipeline, vector_describer
from objemb.regions.base import RegionProgram, RegionSource
from objemb.regions.rmac_grid import RmacGrid
from objemb.runtimes.exported import BOXES, PART, PHOTOS
from objemb.structures import Photo, Regions
from tests.contracts.made import ALL_DESCRIBERS, build, every, ready
from tests.contracts.made import PHOTOS as HOSTILE
from tests.small_settings import CROPS, FASTER, STUDENT
from tests.tiny import random_photo

Settings = dict[str, Any]
BACKBONE = {"name": "narrow_resnet", "width": 4, "blocks": [1, 1, 1, 1]}
DETECTOR = {"name": "faster_rcnn", **FASTER}
OBJECTS = {"name": "detections", "detector": DETECTOR, "min_score": 0.0, "max_regions": 4}
GRID = {"name": "rmac_grid"}
LAST: Settings = {"backbone": BACKBONE, "extractor": {"name": "map", "size": 128}}


def pooled(**changed: object) -> Settings:
    return {"name": "pooled_regions", "regions": {"name": "whole_image"}, **LAST, "pooling": {"name": "max"}, **changed}


#: A describer, an aggregator.
MODELS: dict[str, tuple[Settings, Settings]] = {
    "mac": (pooled(), {"name": "keep"}),
    "gem at several scales": (
        pooled(pooling={"name": "gem"}, scales=[1.0, 0.7071, 0.5], fusion="power"),
        {"name": "keep"},
    ),
    "netvlad": (pooled(pooling={"name": "netvlad", "clusters": 2}), {"name": "keep"}),
    "triangulation": (
        pooled(pooling={"name": "triangulation", "dim": 2, "words": 3, "dropped": 1}),
        {"name": "keep"},
    ),
    "selective, shortest side": (
        pooled(pooling={"name": "selective"}, extractor={"name": "map", "size": 90, "side": "shortest"}),
        {"name": "keep"},
    ),
    "spoc, small photos as they are": (
        pooled(pooling={"name": "spoc"}, extractor={"name": "map", "size": 100, "enlarge": False}),
        {"name": "keep"},
    ),
    "r-mac": (pooled(regions=GRID), {"name": "sum"}),
    "r-mac with the photo": (pooled(regions=GRID), {"name": "sum", "whole_image": True}),
    "r-mac of pixels": (pooled(regions={**GRID, "raster": "pixels"}), {"name": "sum"}),
    "crow of regions": (pooled(regions=GRID, pooling={"name": "crow"}), {"name": "sum"}),
    "proposals": (
        pooled(regions={"name": "rpn_proposals", "detector": DETECTOR, "max_regions": 9}),
        {"name": "sum"},
    ),
    "proposals of the same network": (
        pooled(
            regions={"name": "rpn_proposals", "max_regions": 9},
            backbone={"name": "detector_trunk", "detector": DETECTOR},
        ),
        {"name": "sum"},
    ),
    "crops": ({**CROPS, "regions": OBJECTS}, {"name": "keep"}),
    "crops of given boxes": (CROPS, {"name": "keep"}),
    "padded crops": (
        {
            **CROPS,
            "regions": OBJECTS,
            "extractor": {"name": "crop", "size": 33, "fit": "pad", "margin": 0.1},
        },
        {"name": "keep"},
    ),
    "crops, summed by score": ({**CROPS, "regions": OBJECTS}, {"name": "sum", "weighted": True}),
    "samples of a map": (
        pooled(regions=OBJECTS, extractor={"name": "map", "size": 200, "sampling": "aligned"}),
        {"name": "keep"},
    ),
    "cells of a map": (pooled(regions=OBJECTS, pooling={"name": "gem"}), {"name": "keep"}),
    "crops of objects and patches": (
        {
            **CROPS,
            "regions": {"name": "union", "of": [OBJECTS, {"name": "patchify", "levels": 3}], "max_regions": 12},
        },
        {"name": "keep"},
    ),
    "cells of objects, patches and a grid": (
        pooled(
            regions={"name": "union", "of": [OBJECTS, {"name": "patchify", "levels": 2}, GRID], "fill_to": 7},
            pooling={"name": "gem"},
        ),
        {"name": "keep"},
    ),
    "one pass and patches where little is found": (
        {**STUDENT, "max_regions": 8, "beside": [{"name": "patchify", "levels": 2}, GRID], "fill_to": 3},
        {"name": "keep"},
    ),
    "one pass": (STUDENT, {"name": "keep"}),
    "one pass with windows of its input, summed": (
        {**STUDENT, "max_regions": 3, "object_side": 20.0, "windows_from": "input"},
        {"name": "sum"},
    ),
    "one pass, nothing found": ({**STUDENT, "min_score": 1.0}, {"name": "sum"}),
    "attention": (
        {"name": "regional_attention", "regions": GRID, **LAST, "dim": 8},
        {"name": "sum", "weighted": True},
    ),
    "network": (
        {"name": "rmac_network", "regions": GRID, **LAST, "pooling": {"name": "max"}, "dim": 8},
        {"name": "sum"},
    ),
    "network with its own sum": (
        {
            **{"name": "rmac_network", "regions": GRID, **LAST, "pooling": {"name": "max"}, "dim": 8},
            **{"output": "image", "scales": [1.0, 0.7]},
        },
        {"name": "keep"},
    ),
    "network with its own proposals and sum": (
        {
            **{"name": "rmac_network", **LAST, "pooling": {"name": "max"}, "dim": 8},
            **{"regions": {"name": "rpn_proposals", "max_regions": 5}, "output": "image", "scales": [1.0, 0.7]},
            **{"backbone": {"name": "detector_trunk", "detector": DETECTOR}},
        },
        {"name": "sum"},
    ),
    "codes": (
        {
            **{"name": "neural_codes", "regions": {"name": "whole_image"}},
            **{"arch": "squeezenet1_1", "layer": "flatten", "size": 64},
        },
        {"name": "keep"},
    ),
}
#: Those that are traced as well: each kind of part once.
TRACED = ("r-mac", "proposals of the same network", "padded crops", "cells of objects, patches and a grid")
SIZES = ((60, 80), (90, 31), (1, 70), (1, 1), (300, 220), (128, 128))


def made(name: str) -> tuple[Describer, Aggregator]:
    """A describer, fitted, whitened, and an aggregator."""
    settings, aggregating = MODELS[name]
    torch.manual_seed(3)
    describer = ready(registry.build(Describer, settings))
    whitening = Whitening.fit(torch.randn(60, describer.dim), 5, fitted_on="noise")
    return describer.whitened(whitening), registry.build(Aggregator, aggregating)


def program_of(describer: Describer, aggregator: Aggregator) -> DescriptionProgram:
    return describer.program(100, None if aggregator.per_region else aggregator.row)


def rows_of(photo: Photo) -> Tensor:
    """uint8 ``(H, W, 3)``."""
    return torch.as_tensor(photo.pixels).permute(1, 2, 0).contiguous()


@torch.no_grad()
def compare_parts(describer: Describer, aggregator: Aggregator, photo: Photo, part: Any) -> None:
    """Query boxes of a model, cut out at the scale of their photo, and what a function of the graph ``part`` gives."""
    height, width = photo.size
    edges = np.array([[0.25, 0.3, 0.75, 0.8], [0.5, 0, 1, 1], [0, 0, 1, 1]]) * [width, height, width, height]
    boxes = Regions(edges.round(), photo.size)
    (expected,) = VectorPipeline(describer, aggregator).query_boxes([photo], [boxes], "context")
    whole = [torch.zeros(side, dtype=torch.uint8) for side in photo.size]
    for box, vector in zip(boxes, np.asarray(expected.vectors), strict=True):
        found = part(rows_of(photo.part(box)), *whole)
        assert found.shape == (1, describer.dim)
        assert float((found[0] * torch.as_tensor(vector)).sum()) > 0.9999


@torch.no_grad()
def compare(describer: Describer, aggregator: Aggregator, photo: Photo, photos: Any, boxes: Any) -> None:
    """Rows of a model and what functions of the graphs ``photos`` and ``boxes`` give."""
    expected = VectorPipeline(describer, aggregator).rows([photo])[0]
    found = photos(rows_of(photo)[None])
    own = describer.detector is not None
    assert own == ({"boxes", "labels", "scores", "count"} <= found.keys())
    if own and aggregator.per_region:
        count = int(found["count"][0])
        assert count == len(expected) - 1
        scores = expected.regions.scores[1:]
        assert np.allclose(found["scores"][0, :count], scores, atol=1e-5)
        # equal scores have no order, and of those that are as good as the last one others may be kept
        sure = scores > scores.min(initial=1) + 1e-5
        ours, theirs = (
            np.concatenate([boxes, np.asarray(labels)[:, None]], axis=1)
            for boxes, labels in (
                (found["boxes"][0, :count], found["labels"][0, :count]),
                (expected.regions.boxes[1:], expected.regions.labels[1:]),
            )
        )
        differences = np.abs(theirs[sure, None] - ours[None]).max(axis=2, initial=0)
        assert not sure.any() or differences.min(axis=1).max() < 2e-2
        assert not found["boxes"][0, count:].any()
    if "whole" in found:
        assert float((found["whole"][0] * torch.as_tensor(expected.vectors[0])).sum()) > 0.9999
    if describer.queries_in_context(aggregator.per_region):
        vectors = boxes(rows_of(photo), torch.as_tensor(expected.regions.boxes))
        again = describer.describe([photo], [expected.regions])[0].vectors
        assert float((vectors * torch.as_tensor(again)).sum(dim=1).min()) > 0.9999


@pytest.mark.parametrize("name", MODELS)
def test_a_program_gives_the_rows_of_its_model(name: str) -> None:
    describer, aggregator = made(name)
    program = program_of(describer, aggregator)
    for size in SIZES:
        compare(describer, aggregator, random_photo(*size, seed=sum(size)), program.photos, program.boxes)


@pytest.mark.parametrize("name", MODELS)
def test_a_part_of_a_photo_has_the_scale_of_the_photo(name: str) -> None:
    describer, aggregator = made(name)
    program = program_of(describer, aggregator)
    if not program.keeps_scale:
        with pytest.raises(TypeError, match=r"export: expected a describer of maps, .* found one that resizes them"):
            program.part(*torch.zeros(3, 1, 1, 3, dtype=torch.uint8))
        return
    if describer.queries_in_context(aggregator.per_region):
        return
    for size in SIZES:
        compare_parts(describer, aggregator, random_photo(*size, seed=sum(size)), program.part)


@pytest.mark.skipif(torch_version() < MIN_TORCH, reason="objemb export needs a newer PyTorch")
@pytest.mark.parametrize("name", TRACED)
def test_it_can_be_traced(name: str) -> None:
    describer, aggregator = made(name)
    program = program_of(describer, aggregator)
    program.keeps_scale = name == "r-mac"  # one graph of parts is enough
    graphs = traced(program, 1, None, describer.queries_in_context(aggregator.per_region))
    names = [spec.name for spec in graphs[PHOTOS].outputs]
    modules = {graph: one.program.module(check_guards=False) for graph, one in graphs.items()}

    def photos(pixels: Tensor) -> dict[str, Tensor]:
        return dict(zip(names, modules[PHOTOS](pixels), strict=True))

    for size in SIZES:
        photo = random_photo(*size, seed=sum(size))
        compare(describer, aggregator, photo, photos, modules.get(BOXES))
        assert (PART in modules) == (name == "r-mac")
        if PART in modules:
            compare_parts(describer, aggregator, photo, modules[PART])


@pytest.mark.parametrize("name", ["r-mac", "crops", "one pass with windows of its input, summed"])
def test_photos_of_one_size_in_a_batch(name: str) -> None:
    describer, aggregator = made(name)
    program = program_of(describer, aggregator)
    both = torch.stack([rows_of(random_photo(60, 80, seed=seed)) for seed in (1, 2)])
    with torch.no_grad():
        together, alone = program.photos(both), program.photos(both[1:])
    for output, tensor in together.items():
        assert torch.allclose(tensor[1], alone[output][0], atol=1e-4), output


@pytest.mark.parametrize("aggregator", [Keep(), Sum()])
@pytest.mark.parametrize("name", ALL_DESCRIBERS)
def test_every_describer(name: str, aggregator: Aggregator, tmp_path: Path) -> None:
    describer = build("describers", name, tmp_path)
    if isinstance(describer, FeatureDescriber):
        with pytest.raises(ValueError, match=f"export: expected a describer of .*, found '{name}'"):
            vector_describer(describer, "export")
        return
    if describer.not_exported != Describer.not_exported:
        with pytest.raises(TypeError, match=f"expected one that can be exported, found {name}, whose "):
            program_of(describer, aggregator)
        return
    if aggregator.per_region and isinstance(describer.regions, RmacGrid):
        with pytest.raises(ValueError, match=r"aggregator: expected one row per photo \(sum\) for a grid of regions"):
            program_of(describer, aggregator)
        return
    program = program_of(describer, aggregator)
    for photo in HOSTILE:
        taken = replace(photo, size=(photo.pixels.shape[1], photo.pixels.shape[2]))
        compare(describer, aggregator, taken, program.photos, program.boxes)


@pytest.mark.parametrize(
    ("settings", "aggregator", "message"),
    [
        (
            pooled(pooling={"name": "scda"}),
            Keep(),
            "pooling: expected one that can be exported, found scda, whose ",
        ),
        (
            pooled(extractor={"name": "pyramid"}),
            Keep(),
            r"extractor: expected one that can be exported, found pyramid, which computes",
        ),
        ({**CROPS, "extractor": {"name": "crop", "fit": "keep"}}, Keep(), r"squares \(squash, pad\) .*, found 'keep'"),
        ({**CROPS, "extractor": {"name": "crop", "masks": True}}, Keep(), "expected masks: false .*, found true"),
        (pooled(extractor={"name": "map", "masks": True}), Keep(), "expected masks: false .*, found true"),
    ],
)
def test_what_has_no_program(settings: Settings, aggregator: Aggregator, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        program_of(registry.build(Describer, settings), aggregator)


def test_sources_that_are_joined() -> None:
    patches = {"name": "patchify", "levels": 2}
    proposals = {"name": "rpn_proposals", "detector": DETECTOR}
    source = registry.build(RegionSource, {"name": "union", "of": [patches, GRID]})
    assert not source.program(None).detects
    assert not source.program(None).covers
    source = registry.build(RegionSource, {"name": "union", "of": [OBJECTS, proposals], "max_regions": 9})
    program = source.program(100)
    assert (program.max_detections, program.detects, program.covers) == (9, True, False)
    source = registry.build(RegionSource, {"name": "union", "of": [OBJECTS, patches]})
    assert source.program(3).max_detections == 3
    assert source.program(3).covers
    source = registry.build(RegionSource, {"name": "union", "of": [proposals, patches]})
    with pytest.raises(ValueError, match=r"of: expected detections beside .* a detector .*, found proposals"):
        source.program(None)
    source = registry.build(RegionSource, {"name": "union", "of": [OBJECTS, copy.deepcopy(OBJECTS)]})
    source.sources[1].detector.classes = ("cup",)
    with pytest.raises(ValueError, match=r"of: expected detectors of the same classes .* found .* and \['cup'\]"):
        source.program(None)


def test_a_row_for_each_region_is_none_for_the_photo() -> None:
    with pytest.raises(TypeError, match=r"expected one row per image that can be exported \(sum\), found keep"):
        Keep().row(torch.zeros(1, 3), torch.ones(1))


@every("detectors")
def test_every_detector(name: str, tmp_path: Path) -> None:
    detector = build("detectors", name, tmp_path)
    source = registry.build(registry.load("regions", "detections"), {"name": "detections"})
    source.detector = detector
    if isinstance(detector, NetworkDetector) and type(detector).program is not NetworkDetector.program:
        assert source.program(7).max_detections == 7
        return
    with pytest.raises(TypeError, match=rf"detector: expected .* faster_rcnn.* torchvision_rcnn.*, found {name}"):
        source.program(7)


@every("extractors")
def test_every_extractor(name: str, tmp_path: Path) -> None:
    extractor: Extractor = build("extractors", name, tmp_path)
    backbone = build("backbones", "narrow_resnet", tmp_path)
    if name == "pyramid":
        with pytest.raises(TypeError, match=f"found {name}, which computes the maps that its regions need"):
            extractor.program(backbone)
        return
    program = extractor.program(backbone)
    pixels = rows_of(random_photo(40, 60))
    assert (program.grid(pixels[None]) is not None) == extractor.one_map
    assert len(program(pixels[None].expand(2, -1, -1, -1))) == 2


@every("regions")
def test_every_source_of_regions(name: str, tmp_path: Path) -> None:
    source = build("regions", name, tmp_path)
    if type(source).program is RegionSource.program:
        message = rf"regions: expected .* \('detections', .*\), found {name}; build a model with one of these"
        with pytest.raises(TypeError, match=message):
            source.program(7)
        return
    assert isinstance(source.program(7), RegionProgram)
