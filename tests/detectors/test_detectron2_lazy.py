"""Configs of Detectron2 that are programs: a small ViTDet, and what of such a config a model folder keeps."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling.roi_heads import CascadeROIHeads
from detectron2.utils.events import EventStorage
from torch import nn

from objemb import registry
from objemb.describers.base import Describer
from objemb.detectors._detectron2_config import embedding_config, read_file
from objemb.detectors._detectron2_lazy import lazy_network
from objemb.detectors.detectron2_rcnn import Detectron2Rcnn, add_embedding_head_lazy_config, describe_boxes
from objemb.export.graphs import traced
from objemb.heads.tail import Tail
from objemb.models import build_model, load_model
from objemb.models.detectron2 import settings_of, write_detectron2
from objemb.runtimes.exported import PHOTOS
from tests.detectors.small_detectron2 import entry, truth
from tests.tiny import noise_photo

pytestmark = pytest.mark.detectron2

PROGRAM = Path(__file__).with_name("small_vitdet.py")
HEAD = {"name": "embedding", "dim": 6, "width": 8, "depth": 1}
BOXES = [[4.0, 6.0, 40.0, 50.0], [30.0, 20.0, 78.0, 60.0]]


def config() -> Any:
    return LazyConfig.load(str(PROGRAM))


def built(cfg: Any, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    network = instantiate(cfg.model)
    with torch.no_grad():  # layers of a pyramid begin small, so that all boxes and vectors would be alike
        for parameter in network.backbone.parameters():
            parameter.mul_(2)
    return network


def with_head(**training: Any) -> Any:
    cfg = config()
    add_embedding_head_lazy_config(cfg, HEAD, **training)
    return cfg


class TestInPlace:
    def test_detections_of_a_vitdet_carry_vectors_and_are_those_of_the_plain_one(self) -> None:
        plain, network = built(config()).eval(), built(with_head()).eval()
        assert network.roi_heads.embedding_head.strides == (4, 8, 16, 32)
        network.load_state_dict(plain.state_dict(), strict=False)
        with torch.no_grad():
            before, after = (n([entry()])[0]["instances"] for n in (plain, network))
        assert torch.equal(before.pred_boxes.tensor, after.pred_boxes.tensor)
        assert after.pred_embeddings.shape == (6, 6)
        image = np.ascontiguousarray(entry()["image"].numpy().transpose(1, 2, 0))
        again = describe_boxes(network, image, after.pred_boxes.tensor)
        torch.testing.assert_close(again, after.pred_embeddings, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("side", [0.0, 32.0])
    def test_it_is_trained(self, side: float) -> None:
        network = built(with_head(object_side=side, proposals=0, loss_weight=2.0))
        vectors = nn.functional.normalize(torch.randn(2, 6, generator=torch.Generator().manual_seed(1)))
        with EventStorage():
            terms = network([entry(instances=truth(BOXES, gt_embeddings=vectors))])
        assert 0 < float(terms["loss_embedding"].detach()) < 4
        sum(terms.values()).backward()
        assert network.roi_heads.embedding_head.project.weight.grad.abs().sum() > 0
        assert network.backbone.net.blocks[0].attn.qkv.weight.grad.abs().sum() > 0

    def test_a_tail_on_the_map_of_the_vit(self) -> None:
        cfg, narrow = config(), {"name": "narrow_resnet", "width": 4, "blocks": [1, 1, 1, 1], "stride": 32}
        tail = {"name": "tail", "stride": 16, "dim": 6, "samples": 5, "backbone": narrow, "pooling": {"name": "mean"}}
        add_embedding_head_lazy_config(cfg, tail)
        network = built(cfg).eval()
        assert isinstance(network.roi_heads.embedding_head, Tail)
        assert network.roi_heads.embedding_in_features == ["trunk16"]
        with torch.no_grad():
            assert network([entry()])[0]["instances"].pred_embeddings.shape == (6, 6)

    def test_called_again_it_changes_only_what_is_given(self) -> None:
        cfg = with_head(loss="l2")
        cfg.model.roi_heads.embedding_proposals = 3
        add_embedding_head_lazy_config(cfg, loss_weight=0.5)
        heads = cfg.model.roi_heads
        assert (heads.embedding_loss, heads.embedding_loss_weight, heads.embedding_proposals) == ("l2", 0.5, 3)
        assert heads.embedding_head.dim == 6
        assert cfg.model._target_.__name__ == "EmbeddingRCNN"

    def test_other_configs(self) -> None:
        other = config()
        del other.model["roi_heads"]
        with pytest.raises(ValueError, match=r"model: expected a network with ROI heads, .* which has no roi_heads"):
            add_embedding_head_lazy_config(other)
        unknown = config()
        unknown.model._target_ = nn.Identity
        with pytest.raises(ValueError, match=r"model._target_: expected one of 'GeneralizedRCNN', .*found 'Identity'"):
            add_embedding_head_lazy_config(unknown)
        with pytest.raises(ValueError, match=r"loss: .*did you mean 'cosine'"):
            add_embedding_head_lazy_config(config(), loss="cosin")
        with pytest.raises(TypeError, match=r"cfg: expected a LazyConfig with 'model', .*found dict"):
            add_embedding_head_lazy_config({})
        with pytest.raises(ValueError, match=r"expected a YAML config, found a program .*LazyConfig.load"):
            embedding_config(PROGRAM)

    def test_cascades_are_known(self) -> None:
        cfg = config()
        cfg.model.roi_heads._target_ = CascadeROIHeads
        add_embedding_head_lazy_config(cfg)
        assert cfg.model.roi_heads._target_.__name__ == "EmbeddingCascadeROIHeads"


class TestDetector:
    def test_it_gives_the_boxes_of_the_program(self, tmp_path: Path) -> None:
        network = built(config(), seed=3).eval()
        DetectionCheckpointer(network, str(tmp_path)).save("model_final")
        detector = Detectron2Rcnn(PROGRAM, weights=tmp_path / "model_final.pth", classes=["cup", "jar", "tin"])
        assert (detector.min_size, detector.max_size, detector.bgr) == (64, 96, False)
        photo = noise_photo(64, 80, seed=2)
        (regions,) = detector.detect([photo])
        with torch.no_grad():
            instances = network([{"image": torch.as_tensor(photo.pixels), "height": 64, "width": 80}])[0]["instances"]
        torch.testing.assert_close(torch.as_tensor(regions.boxes), instances.pred_boxes.tensor, rtol=0, atol=1e-4)
        torch.testing.assert_close(torch.as_tensor(regions.scores), instances.scores, rtol=0, atol=1e-5)
        with pytest.raises(ValueError, match=r"expected max_size of at most 96, the square .*, found 128"):
            Detectron2Rcnn(PROGRAM, max_size=128).program()

    @torch.no_grad()
    def test_a_traced_student(self) -> None:
        torch.manual_seed(0)
        detector = {"name": "detectron2_rcnn", "config": str(PROGRAM), "weights": "random"}
        settings = {"name": "one_pass", "detector": detector, "head": {**HEAD, "weights": "random"}, "min_score": 0.0}
        describer = registry.build(Describer, settings)
        graphs = traced(describer.program(4), 1, None, True)
        photos = graphs[PHOTOS].program.module(check_guards=False)
        names = [spec.name for spec in graphs[PHOTOS].outputs]
        for size in ((64, 80), (90, 31), (200, 220)):
            photo = noise_photo(*size, seed=2)
            expected = describer.limited(4).describe([photo])[0]
            found = dict(zip(names, photos(torch.as_tensor(photo.pixels).permute(1, 2, 0)[None]), strict=True))
            count = int(found["count"])
            assert count == len(expected) - 1 > 1
            assert np.allclose(found["boxes"][0, :count], expected.regions.boxes[1:], atol=0.1)
            vectors = torch.cat([found["whole"], found["vectors"][0, :count]])
            assert float((vectors * torch.as_tensor(expected.vectors)).sum(dim=1).min()) > 0.999

    def test_a_model_folder_needs_no_program(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        DetectionCheckpointer(built(with_head(object_side=32.0)), str(tmp_path)).save("model_final")
        own = tmp_path / "own.py"
        more = "\nfrom objemb.detectors.detectron2_rcnn import add_embedding_head_lazy_config\n"
        call = f"add_embedding_head_lazy_config(dict(model=model), {HEAD}, object_side=32.0)\n"
        own.write_text(PROGRAM.read_text(encoding="utf-8") + more + call, encoding="utf-8")
        settings, origins = settings_of(own, tmp_path / "model_final.pth", classes=["cup", "jar", "tin"])
        assert origins["head"] == f"embedding of {tmp_path / 'model_final.pth'}"
        describer: Any = settings["describer"]
        assert (describer["object_side"], describer["max_regions"], describer["min_score"]) == (32.0, 6, 0.0)
        model = build_model(settings)
        model.save(tmp_path / "model")
        own.unlink()
        loaded = load_model(tmp_path / "model")
        given = noise_photo(64, 80).pixels.transpose(1, 2, 0)
        before, after = model.describe(given), loaded.describe(given)
        assert torch.equal(torch.as_tensor(before.vectors), torch.as_tensor(after.vectors))
        assert len(before.regions) > 1
        with pytest.raises(ValueError, match=r"whose config is YAML, found one whose config is a program"):
            write_detectron2(loaded, tmp_path / "back")

    def test_values_that_replace_those_of_the_program(self) -> None:
        opts = ["model.backbone.net.depth", 1, "model.backbone.net.window_block_indexes", []]
        detector = Detectron2Rcnn(PROGRAM, opts=opts, num_classes=2, score_threshold=0.3, max_detections=4, min_size=32)
        heads = detector.network.roi_heads
        assert len(detector.network.backbone.net.blocks) == 1
        assert (heads.num_classes, heads.box_predictor.cls_score.out_features) == (2, 3)
        assert (heads.box_predictor.test_score_thresh, heads.box_predictor.test_topk_per_image) == (0.3, 4)
        assert detector.min_size == 32
        with pytest.raises(ValueError, match=r"opts: expected keys of the LazyConfig, found 'model.back.bone'"):
            Detectron2Rcnn(PROGRAM, opts=["model.back.bone", 1])

    def test_sides_that_nobody_says(self) -> None:
        content: Any = read_file(PROGRAM)
        content["sides"] = None
        with pytest.raises(ValueError, match=r"min_size, max_size: expected both .*found None and None"):
            Detectron2Rcnn(content)
        assert Detectron2Rcnn(content, min_size=32, max_size=48).max_size == 48


class TestWhatAFolderMayName:
    def test_only_parts_of_networks(self) -> None:
        content: Any = copy.deepcopy(read_file(PROGRAM))
        foreign = ("os.system", "builtins.eval", "torch.load", "detectron2.modeling.sys.exit", "torch.nn.no")
        for name in foreign:
            for key in ("_target_", "_name_", "_partial_"):
                content["model"]["backbone"]["net"]["norm_layer"] = {key: name, "command": "true"}
                with pytest.raises(ValueError, match=rf"norm_layer: expected a part of a network .*found '{name}'"):
                    lazy_network(content, (), {})

    def test_nor_by_its_overrides(self) -> None:
        content = read_file(PROGRAM)
        with pytest.raises(ValueError, match=r"backbone: expected a part of a network .*found 'os.system'"):
            lazy_network(content, ["model.backbone._target_", "os.system"], {})
        with pytest.raises(ValueError, match=r"expected a value, or a reference to a key"):
            lazy_network(content, ["model.input_format", "${oc.env:HOME}"], {})
        changed = lazy_network(content, ["model.proposal_generator.box2box_transform.weights", [2.0] * 4], {})
        assert changed.proposal_generator.box2box_transform.weights == [2.0] * 4

    def test_no_resolvers(self) -> None:
        content: Any = copy.deepcopy(read_file(PROGRAM))
        content["model"]["input_format"] = "${oc.env:HOME}"
        with pytest.raises(ValueError, match=r"model.input_format: expected a value, or a reference to a key"):
            lazy_network(content, (), {})

    def test_programs_that_cannot_be_kept(self, tmp_path: Path) -> None:
        text = PROGRAM.read_text(encoding="utf-8")
        own = tmp_path / "own.py"
        own.write_text(text + "\nmodel.roi_heads.box_head.conv_norm = lambda c: nn.Identity()\n", encoding="utf-8")
        with pytest.raises(ValueError, match=r"box_head.conv_norm: expected a class or function with a name"):
            read_file(own)
        assert read_file(own, ["model.roi_heads.box_head.conv_norm", "LN"]) == read_file(PROGRAM)
        own.write_text(text + "\nraise RuntimeError('no data')\n", encoding="utf-8")
        with pytest.raises(ValueError, match="a program that raises RuntimeError: no data"):
            read_file(own)
        own.write_text("thing = dict(a=1)\n", encoding="utf-8")
        with pytest.raises(ValueError, match=r"expected a LazyConfig with 'model', found 'thing'"):
            read_file(own)
