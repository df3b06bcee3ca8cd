from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from objemb.backbones.detector_trunk import DetectorTrunk
from objemb.backbones.narrow_resnet import NarrowResnet
from objemb.cli.programs.analyses.conclusions import FAILS, HOLDS
from objemb.cli.programs.analyses.report import analysis_markdown, draw_attention, draw_layers
from objemb.cli.programs.analyses.run import Analysis, analyse
from objemb.cli.programs.analyses.settings import BOXES, CLASSIFICATION, DETECTION, GRID, TRUTH, WHOLE
from objemb.datasets.evaluation_set import EvaluationSet, read_evaluation_set
from objemb.datasets.scene_settings import SceneSettings
from objemb.datasets.scenes import Scenes
from objemb.datasets.writing import write_scenes
from objemb.detectors.faster_rcnn import FasterRcnn
from objemb.evaluation.retrieval_task import make_task
from objemb.regions.detections import Detections
from objemb.structures import Photo, Regions
from tests.tiny import TinyBackbone

TRAIN = 12


class Middle:
    """A detector that finds something in the middle of every photo. Counts the photos."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def detect(self, photos: list[Photo]) -> list[Regions]:
        self.asked += [photo.id for photo in photos]
        return [Regions(torch.tensor([[10.0, 10, 50, 50], [0, 20, 30, 60]]), photo.size) for photo in photos]

    def decode_side(self) -> int:
        return 0


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    settings = SceneSettings(size=64, train_families=2, test_families=2, train_scenes=TRAIN, test_scenes=14)
    for split in ("train", "test"):
        write_scenes(Scenes(settings, split), folder, split, format="png", query_every=2)
    return folder


@pytest.fixture(scope="module")
def data(scenes: Path) -> EvaluationSet:
    return read_evaluation_set(scenes / "retrieval_test.json")


def narrow(seed: int) -> NarrowResnet:
    torch.manual_seed(seed)
    return NarrowResnet(width=4, blocks=[1, 1, 1, 1], stride=32)


def trunk(net: NarrowResnet) -> DetectorTrunk:
    return DetectorTrunk(detector=FasterRcnn(net, channels=8, box_width=8))


def run(data: EvaluationSet, scenes: Path, level: str = "image", **changes: Any) -> tuple[Analysis, Middle]:
    detector = Middle()
    source: Any = Detections(detector=detector, min_score=0.0)  # type: ignore[arg-type]
    settings = {"attention": source, "whiten_on": [scenes / "instances_train.json"], "size": 64, "dims": (4, 8, 64)}
    networks = (narrow(0), trunk(narrow(1)))
    return analyse(*networks, data, make_task(data, level), workers=0, **{**settings, **changes}), detector


def test_at_image_level(data: EvaluationSet, scenes: Path, tmp_path: Path) -> None:
    found, detector = run(data, scenes)
    assert [str(layer) for layer in found.layers] == ["conv4_1 (stride 16)", "conv5_1 (stride 32)"]
    assert {c.network for c in found.scores} == {CLASSIFICATION, DETECTION}
    dims = {(c.layer, c.setting.name): set() for c in found.scores}  # type: dict[tuple[str, str], set[int]]
    for c in found.scores:
        dims[c.layer, c.setting.name].add(c.dim)
    assert dims["conv5_1", "MAC"] == {4, 8}, "twelve photos vary in eleven directions"
    assert len(found.scores) == 2 * sum(map(len, dims.values()))
    assert {c.setting.kind for c in found.attention} == {WHOLE, GRID, BOXES, TRUTH}
    assert {c.setting.pooling for c in found.attention} == {"mean", "max", "gem"}
    assert len(found.conclusions) == 8
    assert found.problems == ()
    assert len(detector.asked) == 14 + TRAIN, "once a photo, though there are two networks"
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["whitened"] is True
    table = analysis_markdown(found)
    assert "| conv5_1 (stride 32) | R-MAC |" in table
    assert "| mean | detector boxes | best match |" in table
    pytest.importorskip("matplotlib")
    for draw in (draw_layers, draw_attention):
        draw(found, tmp_path / "picture.png")
        assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_at_object_level_boxes_are_given(data: EvaluationSet, scenes: Path, tmp_path: Path) -> None:
    found, _ = run(data, scenes, "object")
    assert found.attention == []
    assert len(found.conclusions) == 4
    assert {c.dim for c in found.scores if c.layer == "conv5_1"} == {4, 8}
    assert "where to setting" not in analysis_markdown(found)
    draw_attention(found, tmp_path / "picture.png")
    assert not (tmp_path / "picture.png").exists()
    with pytest.raises(ValueError, match="whiten_boxes: expected boxes to fit a whitening of objects on, found none"):
        run(data, scenes, "object", attention=None)


def test_the_same_weights_are_equal_in_all_layers(data: EvaluationSet, scenes: Path) -> None:
    net = narrow(0)
    source: Any = Detections(detector=Middle(), min_score=0.0)  # type: ignore[arg-type]
    found = analyse(
        net, trunk(net), data, make_task(data, "object"), whiten_on=None, attention=source, size=64, workers=0
    )
    assert [conclusion.verdict for conclusion in found.conclusions] == [FAILS, FAILS, HOLDS, FAILS]
    assert not found.whitened
    assert {c.dim for c in found.scores if c.layer == "conv4_1"} == {16}, "without PCA there is one dimension"


def test_without_a_detector_or_true_boxes(data: EvaluationSet, scenes: Path) -> None:
    bare = EvaluationSet(data.path, data.name, data.images, (), data.queries)
    found, _ = run(bare, scenes, attention=None)
    assert {c.setting.kind for c in found.attention} == {WHOLE, GRID}
    assert len(found.conclusions) == 6


def test_a_whitening_of_the_evaluation_photos_is_reported(data: EvaluationSet, scenes: Path) -> None:
    found, _ = run(data, scenes, whiten_on=[scenes / "images"], attention=None)
    assert found.problems == ("the whitening is fitted on 14 photos of the evaluation set: its results are too good",)


def test_photos_that_cannot_be_read_are_reported_once(data: EvaluationSet, scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    found, _ = run(data, scenes, whiten_on=[scenes / "instances_train.json", tmp_path])
    assert len(found.problems) == 1
    assert found.problems[0].startswith("broken.png: ")


def test_boxes_outside_their_photo_are_reported_with_it(data: EvaluationSet, scenes: Path) -> None:
    first, *others = data.objects
    odd = replace(data, objects=(replace(first, box=(0.0, 0.0, 9999.0, 10.0)), *others))
    found, _ = run(odd, scenes)
    (line,) = found.problems
    assert re.fullmatch(
        rf"{first.file}: expected boxes inside \d+ x \d+ pixels, found \(0.0, 0.0, 9999.0, 10.0\)", line
    )


def test_networks_that_do_not_match(data: EvaluationSet, scenes: Path) -> None:
    task = make_task(data, "image")
    other = NarrowResnet(width=8, blocks=[1, 1, 1, 1], stride=32)
    shapes = r"found \{'conv2_1': \(4, 4\), .* and \{'conv2_1': \(4, 8\)"
    with pytest.raises(ValueError, match="networks: expected the same trunk, .*" + shapes):
        analyse(narrow(0), trunk(other), data, task, whiten_on=None)
    with pytest.raises(ValueError, match="found one map only and one map only"):
        analyse(TinyBackbone(), TinyBackbone(), data, task, whiten_on=None)
    with pytest.raises(ValueError, match=r"layers: expected one of 'conv2_1', .* 'conv5_1', found 'conv6_1'"):
        run(data, scenes, layers=["conv5_1", "conv6_1"])


def test_layers_by_name(data: EvaluationSet, scenes: Path) -> None:
    found, _ = run(data, scenes, layers=["conv5_1", "conv2_1"], attention=None)
    assert [layer.name for layer in found.layers] == ["conv2_1", "conv5_1"], "in their order"
    assert {c.dim for c in found.scores if c.layer == "conv2_1"} == {4}
    assert found.conclusions[2].claim.startswith("At lower layers (conv2_1), ")
    with pytest.raises(ValueError, match="whiten_on: expected"):
        run(data, scenes, whiten_on=[])


def test_too_few_photos_for_a_whitening(data: EvaluationSet, scenes: Path) -> None:
    first = next((scenes / "images").glob("train_*"))
    with pytest.raises(ValueError, match="whitening of whole image, conv4_1, mean: vectors: expected at least 2"):
        run(data, scenes, whiten_on=[first])
