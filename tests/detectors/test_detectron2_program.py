from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("detectron2")

import objemb
from objemb import registry
from objemb.describers.base import Describer
from objemb.detectors.base import Detector
from objemb.detectors.detectron2_rcnn import Detectron2Rcnn
from objemb.export.graphs import traced
from objemb.export.run import ExportSettings, export_model
from objemb.models import build_model
from objemb.runtimes.exported import BOXES, PHOTOS
from objemb.structures import Photo
from tests.detectors.small_detectron2 import C4, CASCADE, DC5, FASTER, MASK, OPTS
from tests.small_settings import TAIL
from tests.tiny import random_photo

EMBEDDING = {"name": "embedding", "dim": 8, "width": 8, "weights": "random"}

pytestmark = pytest.mark.detectron2

SIZES = ((60, 80), (90, 31), (3, 5), (1, 70), (200, 20), (300, 220))


def detector(name: str, *opts: object) -> Detectron2Rcnn:
    torch.manual_seed(3)
    built = registry.build(Detector, {"name": "detectron2_rcnn", "config": name, "opts": [*OPTS[name], *opts]})
    assert isinstance(built, Detectron2Rcnn)
    several = built.network.roi_heads.box_predictor
    predictors = several if isinstance(several, torch.nn.ModuleList) else [several]
    for layer in (*(p.cls_score for p in predictors), built.network.proposal_generator.rpn_head):
        for parameter in layer.parameters():  # scores that differ
            parameter.data.mul_(20)
    return built


def rows_of(photo: Photo) -> Tensor:
    """uint8 ``(H, W, 3)``."""
    return torch.as_tensor(photo.pixels).permute(1, 2, 0).contiguous()


@pytest.mark.parametrize(
    ("name", "agnostic"),
    [(FASTER, False), (FASTER, True), (MASK, False), (DC5, False), (CASCADE, True), (C4, False)],
)
@torch.no_grad()
def test_it_finds_what_the_detector_finds(name: str, agnostic: bool) -> None:
    built = detector(name, "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", agnostic)
    program = built.program()
    for size in SIZES:
        photo = random_photo(*size, seed=sum(size))
        batch = built.preprocess([photo])
        pixels, inner = program.prepared(rows_of(photo)[None])
        assert [tuple(inner.int().tolist())] == [tuple(size) for size in batch.image_sizes]
        off = (pixels - batch.tensors).abs()  # Pillow, which the detector uses, rounds some grey levels otherwise
        assert float(off.max()) < 1.02
        assert float((off > 0.02).float().mean()) < 0.25  # a photo of 3 x 5 pixels; few in large ones
        features = built.features(batch)
        proposals, _ = built.network.proposal_generator(batch, features, None)
        expected = built.network.roi_heads(batch, features, proposals, None)[0][0]
        padded = (batch.tensors.shape[2], batch.tensors.shape[3])
        boxes, valid = program.proposals(features, padded, inner)
        assert torch.allclose(boxes[valid], proposals[0].proposal_boxes.tensor, atol=1e-3)
        found = program(features, padded, inner, 0.0)
        count = int(found.count)
        assert count == len(expected)
        assert torch.allclose(found.scores[:count], expected.scores, atol=1e-5)
        assert torch.equal(found.labels[:count], expected.pred_classes)
        assert torch.allclose(found.boxes[:count], expected.pred_boxes.tensor, atol=1e-2)


def test_normalised_images() -> None:
    built = detector(FASTER)
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(built.program().normalised(pixels), built.normalised(pixels).tensors, atol=1e-4)


def test_other_proposals_are_refused() -> None:
    built = registry.build(Detector, {"name": "detectron2_rcnn", "config": C4, "opts": OPTS[C4]})
    assert isinstance(built, Detectron2Rcnn)
    built.network.proposal_generator = torch.nn.Identity()
    with pytest.raises(TypeError, match=r"or Res5ROIHeads behind an RPN .*, found Res5ROIHeads behind Identity"):
        built.program()


@pytest.mark.parametrize("name", [FASTER, CASCADE, C4])
@torch.no_grad()
def test_a_traced_student(name: str) -> None:
    settings: dict[str, Any] = {
        "name": "one_pass",
        "detector": {"name": "detectron2_rcnn", "config": name, "opts": OPTS[name]},
        "head": {"name": "embedding", "dim": 8, "width": 8},
        "min_score": 0.0,
    }
    torch.manual_seed(3)
    describer = registry.build(Describer, settings)
    graphs = traced(describer.program(4), 1, None, True)
    names = [spec.name for spec in graphs[PHOTOS].outputs]
    photos, boxes = (graphs[name].program.module(check_guards=False) for name in (PHOTOS, BOXES))
    for size in SIZES:
        photo = random_photo(*size, seed=sum(size))
        expected = describer.limited(4).describe([photo])[0]
        found = dict(zip(names, photos(rows_of(photo)[None]), strict=True))
        assert int(found["count"]) == len(expected) - 1
        again = boxes(rows_of(photo), torch.as_tensor(expected.regions.boxes))
        assert float((again * torch.as_tensor(expected.vectors)).sum(dim=1).min()) > 0.999
        assert float((found["whole"][0] * torch.as_tensor(expected.vectors[0])).sum()) > 0.999


@pytest.mark.parametrize(
    ("name", "more"),
    [
        (CASCADE, {"head": EMBEDDING}),
        (C4, {"head": {**TAIL, "weights": "random"}, "object_side": 24.0, "windows_from": "input"}),
    ],
    ids=["cascade", "C4 with windows of its input"],
)
def test_onnx_runtime_gives_what_pytorch_gives(name: str, more: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    detector = {"name": "detectron2_rcnn", "config": name, "opts": OPTS[name], "weights": "random"}
    torch.manual_seed(3)
    model = build_model({"describer": {"name": "one_pass", "detector": detector, "min_score": 0.0, **more}})
    photos = [random_photo(*size, seed=sum(size)) for size in ((60, 80), (96, 48))]
    export_model(model, tmp_path / "exported", ExportSettings(max_detections=4), photos=photos[:1])
    exported = objemb.load(tmp_path / "exported")
    for photo in photos:
        expected, found = (m.describe(rows_of(photo).numpy()) for m in (model.limited(4), exported))
        assert np.allclose(found.regions.boxes, expected.regions.boxes, atol=2e-2)
        assert float((found.vectors * expected.vectors).sum(axis=1).min()) > 0.9999


def test_the_input_of_a_network() -> None:
    """A batch is as one photo after the other."""
    program = detector(FASTER).program()
    both = torch.stack([rows_of(random_photo(50, 70, seed=seed)) for seed in (1, 2)])
    pixels, _ = program.prepared(both)
    assert torch.equal(pixels[1:], program.prepared(both[1:])[0])
