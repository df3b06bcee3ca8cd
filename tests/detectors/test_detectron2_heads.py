from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import DefaultPredictor
from detectron2.export import TracingAdapter
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from objemb.describers._windows import windows_around
from objemb.detectors._detectron2_boxes import described
from objemb.detectors._detectron2_config import embedding_config as of_file
from objemb.detectors._detectron2_config import find_file
from objemb.detectors._detectron2_trunk import lower_maps, trunk_of
from objemb.detectors.detectron2_rcnn import add_embedding_head_config, describe_boxes
from objemb.heads.embedding import EmbeddingHead
from objemb.heads.tail import Tail
from objemb.losses.distillation import cosine_loss
from objemb.structures import Regions
from tests.detectors.small_detectron2 import (
    C4,
    CASCADE,
    DC5,
    DIM,
    FASTER,
    MASK,
    NO_FPN,
    NODE,
    built,
    embedding_config,
    entry,
    truth,
    usual_config,
)
from tests.tiny import noise_photo

pytestmark = pytest.mark.detectron2

CONFIGS = Path(__file__).parents[2] / "configs" / "detectron2"
BOXES = [[4.0, 6.0, 40.0, 50.0], [30.0, 20.0, 78.0, 60.0]]


def vectors(count: int, seed: int = 1) -> torch.Tensor:
    rows = torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows)


@pytest.fixture(scope="module")
def network() -> Any:
    return built(embedding_config()).eval()


def found(network: Any, *entries: dict[str, Any], **options: Any) -> list[Any]:
    with torch.no_grad():
        outputs = network.inference(list(entries), **options)
    return [o["instances"] if isinstance(o, dict) else o for o in outputs]


def losses(network: Any, *entries: dict[str, Any]) -> dict[str, torch.Tensor]:
    with EventStorage():
        return network(list(entries))


def learned(**node: Any) -> dict[str, Any]:
    boxes = truth(BOXES, gt_embeddings=vectors(2), gt_image_embeddings=vectors(1, seed=2).expand(2, -1))
    return entry(instances=boxes, **node)


def test_the_usual_config_and_one_node() -> None:
    cfg = usual_config()
    add_embedding_head_config(cfg)
    assert cfg.MODEL.ROI_HEADS.NAME == "EmbeddingROIHeads"
    assert cfg.MODEL.ROI_EMBEDDING_HEAD.DIM == 128
    cfg.MODEL.ROI_EMBEDDING_HEAD.DIM = 32
    add_embedding_head_config(cfg)
    assert cfg.MODEL.ROI_EMBEDDING_HEAD.DIM == 32, "what was said stays"
    with pytest.raises(
        ValueError, match=r"ROI_HEADS.NAME: .*did you mean 'StandardROIHeads'.*the mixin .*WithEmbeddings"
    ):
        cfg.MODEL.ROI_HEADS.NAME = "StandardRoiHeads"


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*_R_50_*.yaml")), ids=lambda file: file.stem)
def test_configs_of_the_checkout(config: Path) -> None:
    small = [*NO_FPN, *(() if "C4" in config.stem else ("MODEL.FPN.OUT_CHANNELS", 16))]
    node = [item for key, value in NODE.items() for item in (f"MODEL.ROI_EMBEDDING_HEAD.{key}", value)]
    network = built(of_file(config, [*small, *node, "MODEL.DEVICE", "cpu"]))
    example = learned()
    example["instances"].gt_masks = BitMasks(torch.ones(2, 64, 80, dtype=torch.bool))
    sum(losses(network, example).values()).backward()
    head = network.roi_heads.embedding_head
    assert head.strides == (8, 16)
    assert head.project.weight.grad.abs().sum() > 0
    (of_photo,) = found(network.eval(), entry())
    assert of_photo.pred_embeddings.shape == (len(of_photo), DIM)


def test_the_head_is_that_of_all_describers(network: Any) -> None:
    head = network.roi_heads.embedding_head
    assert isinstance(head, EmbeddingHead)
    assert (head.channels, head.strides, head.dim) == ((16, 16, 16, 16), (4, 8, 16, 32), DIM)


def test_levels_can_be_chosen() -> None:
    head = built(embedding_config(IN_FEATURES=["p3", "p6"])).roi_heads.embedding_head
    assert head.strides == (8, 64)
    with pytest.raises(ValueError, match=r"levels: expected one of 'p2', .*found 'res2'"):
        built(embedding_config(IN_FEATURES=["res2"]))
    with pytest.raises(ValueError, match=r"LOSS: .*did you mean 'cosine'"):
        built(embedding_config(LOSS="cosin"))


def test_detections_carry_unit_vectors(network: Any) -> None:
    instances = found(network, entry(seed=1), entry((96, 48), seed=2))
    for of_photo in instances:
        assert of_photo.pred_embeddings.shape == (len(of_photo), DIM)
        assert of_photo.pred_embeddings.dtype == torch.float32
        torch.testing.assert_close(of_photo.pred_embeddings.norm(dim=1), torch.ones(len(of_photo)))
    assert len(instances[0]) == 6


def test_they_go_along_through_indexing_cat_and_post_processing(network: Any) -> None:
    (raw,) = found(network, entry(), do_postprocess=False)
    (final,) = found(network, entry(height=640, width=800))
    assert final.image_size == (640, 800)
    torch.testing.assert_close(final.pred_boxes.tensor, raw.pred_boxes.tensor * 10)
    assert torch.equal(final.pred_embeddings, raw.pred_embeddings)
    some = final[torch.tensor([4, 1])]
    assert torch.equal(some.pred_embeddings, final.pred_embeddings[[4, 1]])
    both = Instances.cat([some, final[2]])
    assert torch.equal(both.pred_embeddings, final.pred_embeddings[[4, 1, 2]])
    assert torch.equal(both.to("cpu").pred_embeddings, both.pred_embeddings)


def test_a_vector_is_that_of_the_final_box(network: Any) -> None:
    (raw,) = found(network, entry(), do_postprocess=False)
    with torch.no_grad():
        features = network.backbone(network.preprocess_image([entry()]).tensor)
        maps = [features[name] for name in ("p2", "p3", "p4", "p5")]
        expected = network.roi_heads.embedding_head(maps, [raw.pred_boxes.tensor])
    torch.testing.assert_close(raw.pred_embeddings, expected)


def test_given_boxes(network: Any) -> None:
    (raw,) = found(network, entry(), do_postprocess=False)
    given = Instances((64, 80), pred_boxes=Boxes(raw.pred_boxes.tensor[:3].clone()), pred_classes=raw.pred_classes[:3])
    none = Instances((64, 80), pred_boxes=Boxes(torch.zeros(0, 4)), pred_classes=torch.zeros(0, dtype=torch.int64))
    told, nothing = found(network, entry(), entry(seed=5), detected_instances=[given, none], do_postprocess=False)
    torch.testing.assert_close(told.pred_embeddings, raw.pred_embeddings[:3], rtol=1e-4, atol=1e-5)
    assert nothing.pred_embeddings.shape == (0, DIM)


def test_nothing_found(network: Any) -> None:
    predictor = network.roi_heads.box_predictor
    before, predictor.test_score_thresh = predictor.test_score_thresh, 1.0
    try:
        (nothing,) = found(network, entry())
    finally:
        predictor.test_score_thresh = before
    assert nothing.pred_embeddings.shape == (0, DIM)


@pytest.mark.parametrize("name", [MASK, CASCADE, C4, DC5])
def test_other_networks(name: str) -> None:
    network = built(embedding_config(name))
    masks = torch.zeros(2, 64, 80, dtype=torch.bool)
    masks[0, 6:50, 4:40] = masks[1, 20:60, 30:78] = True
    example = learned()
    example["instances"].gt_masks = BitMasks(masks)
    terms = losses(network, example)
    assert float(terms["loss_embedding"].detach()) > 0
    sum(terms.values()).backward()
    assert network.roi_heads.embedding_head.project.weight.grad.abs().sum() > 0
    (of_photo,) = found(network.eval(), entry())
    assert of_photo.pred_embeddings.shape == (len(of_photo), DIM)
    assert of_photo.has("pred_masks") == (name != DC5)


def test_the_loss_is_that_of_all_boxes_and_the_whole_image() -> None:
    network = built(embedding_config(PROPOSALS_PER_IMAGE=0, LOSS_WEIGHT=0.5))
    example, background = learned(), entry(seed=3, instances=truth([]))
    found_loss = losses(network, background, example)["loss_embedding"]
    images = network.preprocess_image([background, example])
    features = network.backbone(images.tensor)
    boxes = torch.tensor([*BOXES, [0.0, 0.0, 80.0, 64.0]])
    maps = [features[name] for name in ("p2", "p3", "p4", "p5")]
    student = network.roi_heads.embedding_head(maps, [torch.zeros(0, 4), boxes], unit=False)
    expected = 0.5 * cosine_loss(student, torch.cat([vectors(2), vectors(1, seed=2)]))
    torch.testing.assert_close(found_loss, expected)


def test_proposals_have_the_vector_of_their_object(network: Any) -> None:
    heads = network.roi_heads
    near_second, elsewhere = [31.0, 21.0, 77.0, 60.0], [0.0, 50.0, 10.0, 64.0]
    proposals = Instances((64, 80), proposal_boxes=Boxes(torch.tensor([elsewhere, near_second])))
    boxes, teacher = heads._examples(proposals, truth(BOXES, gt_embeddings=vectors(2)))
    assert boxes.tolist() == [*BOXES, near_second]
    assert torch.equal(teacher, vectors(2)[[0, 1, 1]])


def test_at_most_so_many_proposals(network: Any) -> None:
    proposals = Instances((64, 80), proposal_boxes=Boxes(torch.tensor([BOXES[0]] * 100)))
    boxes, teacher = network.roi_heads._examples(proposals, truth(BOXES, gt_embeddings=vectors(2)))
    assert boxes.shape == (2 + 32, 4)
    assert teacher.shape == (2 + 32, DIM)


def test_a_batch_without_a_box_is_a_step() -> None:
    network = built(embedding_config())
    terms = losses(network, entry(instances=truth([])))
    sum(terms.values()).backward()
    assert float(terms["loss_embedding"].detach()) == 0
    assert network.roi_heads.embedding_head.project.weight.grad.abs().sum() == 0


def test_missing_and_wrong_vectors() -> None:
    network = built(embedding_config())
    with pytest.raises(ValueError, match="'gt_embeddings', found 'gt_boxes', 'gt_classes'"):
        losses(network, entry(instances=truth(BOXES)))
    with pytest.raises(ValueError, match=r"gt_embeddings: expected shape \(2, 6\), found \(2, 5\)"):
        losses(network, entry(instances=truth(BOXES, gt_embeddings=torch.ones(2, 5))))
    terms = losses(built(embedding_config(LOSS_WEIGHT=0.0)), entry(instances=truth(BOXES)))
    assert "loss_embedding" not in terms, "a detector alone can be trained as before"


def test_it_learns() -> None:
    network = built(embedding_config())
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    course = []
    for _ in range(8):
        terms = losses(network, learned())
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
        course.append(float(terms["loss_embedding"].detach()))
    assert course[-1] < 0.6 * course[0], course
    assert all(torch.isfinite(p).all() for p in network.parameters())


def test_weights_of_a_plain_detector_load_and_the_head_starts_fresh(tmp_path: Path) -> None:
    plain = built(usual_config(), seed=1)
    DetectionCheckpointer(plain, str(tmp_path)).save("coco")
    network = built(embedding_config())
    fresh = {k: v.clone() for k, v in network.roi_heads.embedding_head.state_dict().items()}
    DetectionCheckpointer(network).load(str(tmp_path / "coco.pth"))
    state = network.state_dict()
    assert all(torch.equal(state[k], v) for k, v in plain.state_dict().items())
    assert all(torch.equal(state[f"roi_heads.embedding_head.{k}"], v) for k, v in fresh.items())


def test_saved_and_loaded(network: Any, tmp_path: Path) -> None:
    cfg = embedding_config()
    (tmp_path / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
    DetectionCheckpointer(network, str(tmp_path)).save("model_final")
    again = get_cfg()
    add_embedding_head_config(again)
    again.merge_from_file(str(tmp_path / "config.yaml"))
    assert again.MODEL.ROI_HEADS.NAME == "EmbeddingROIHeads"
    assert {k: again.MODEL.ROI_EMBEDDING_HEAD[k] for k in NODE} == NODE
    loaded = built(again, seed=9).eval()
    DetectionCheckpointer(loaded).load(str(tmp_path / "model_final.pth"))
    (before,), (after,) = found(network, entry()), found(loaded, entry())
    assert torch.equal(before.pred_embeddings, after.pred_embeddings)


def test_model_zoo_is_never_imported() -> None:
    assert usual_config(FASTER) is not None
    assert "detectron2.model_zoo" not in sys.modules


RETINANET = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"
RPN = "COCO-Detection/rpn_R_50_FPN_1x.yaml"
SEMANTIC = "Misc/semantic_R_50_FPN_1x.yaml"
PANOPTIC = "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml"


def shipped(name: str) -> str:
    return str(find_file(name))


class TestOrder:
    def test_before_the_file_is_merged(self) -> None:
        """As projects of Detectron2 add their keys: what the file says later does not take the head away."""
        first, last = get_cfg(), get_cfg()
        add_embedding_head_config(first)
        first.merge_from_file(shipped(FASTER))
        last.merge_from_file(shipped(FASTER))
        add_embedding_head_config(last)
        assert first == last
        assert first.MODEL.ROI_HEADS.NAME == "EmbeddingROIHeads"
        assert first.MODEL.META_ARCHITECTURE == "EmbeddingRCNN"
        first.merge_from_list(["MODEL.ROI_HEADS.NAME", "CascadeROIHeads"])
        copied = first.clone()
        copied.MODEL.ROI_HEADS.NAME = "Res5ROIHeads"
        assert first.MODEL.ROI_HEADS.NAME == "EmbeddingCascadeROIHeads"
        assert copied.MODEL.ROI_HEADS.NAME == "EmbeddingRes5ROIHeads"

    @pytest.mark.parametrize("name", [RETINANET, RPN, SEMANTIC])
    def test_what_has_no_roi_heads_is_refused_in_either_order(self, name: str) -> None:
        cfg = get_cfg()
        add_embedding_head_config(cfg)
        with pytest.raises(
            ValueError, match=r"META_ARCHITECTURE: expected a network with ROI heads, .* which has none"
        ):
            cfg.merge_from_file(shipped(name), allow_unsafe=True)
        other = get_cfg()
        other.merge_from_file(shipped(name), allow_unsafe=True)
        with pytest.raises(ValueError, match="expected a network with ROI heads"):
            add_embedding_head_config(other)

    def test_panoptic_networks_have_them(self) -> None:
        cfg = get_cfg()
        add_embedding_head_config(cfg)
        cfg.merge_from_file(shipped(PANOPTIC))
        assert cfg.MODEL.META_ARCHITECTURE == "EmbeddingPanopticFPN"

    def test_unknown_networks(self) -> None:
        cfg = usual_config()
        add_embedding_head_config(cfg)
        with pytest.raises(
            ValueError, match=r"found 'GeneralisedRCNN' .*did you mean 'GeneralizedRCNN'.*import the module"
        ):
            cfg.MODEL.META_ARCHITECTURE = "GeneralisedRCNN"


TAIL = {
    "NAME": "tail",
    "BACKBONE": {"name": "narrow_resnet", "width": 8, "blocks": [1, 1, 1, 1]},
    "POOLING": {"name": "mean"},
    "STRIDE": 8,
    "SAMPLES": 5,
}


def tail_config(name: str = FASTER, **node: Any) -> Any:
    cfg = embedding_config(name)
    for key, value in {**TAIL, **node}.items():
        cfg.MODEL.ROI_EMBEDDING_HEAD[key] = CfgNode(value, new_allowed=True) if isinstance(value, dict) else value
    return cfg


class TestTail:
    @pytest.mark.parametrize("name", [FASTER, CASCADE, C4, DC5])
    def test_the_teachers_stages_on_a_level_of_the_trunk(self, name: str) -> None:
        network = built(tail_config(name))
        head = network.roi_heads.embedding_head
        assert isinstance(head, Tail)
        assert head.strides == (8,)
        example = learned()
        masks = torch.zeros(2, 64, 80, dtype=torch.bool)
        masks[0, 6:50, 4:40] = masks[1, 20:60, 30:78] = True
        example["instances"].gt_masks = BitMasks(masks)
        terms = losses(network, example)
        sum(terms.values()).backward()
        assert head.project.weight.grad.abs().sum() > 0
        network.eval()
        (of_photo,) = found(network, entry(), do_postprocess=False)
        with torch.no_grad():
            pixels = network.preprocess_image([entry()]).tensor
            trunk = trunk_of(network.backbone)
            maps = trunk(pixels)
            level = next(maps[n] for n, shape in trunk.output_shape().items() if shape.stride == 8)
            expected = head([level], [of_photo.pred_boxes.tensor])
        torch.testing.assert_close(of_photo.pred_embeddings, expected)

    def test_names_of_parameters_are_those_of_the_plain_network(self) -> None:
        plain, network = built(usual_config(), seed=1), built(tail_config(), seed=1)
        others = {k for k in network.state_dict() if "embedding_head" not in k}
        assert others == set(plain.state_dict())

    def test_without_a_network(self) -> None:
        with pytest.raises(
            ValueError, match=r"BACKBONE.name and MODEL.ROI_EMBEDDING_HEAD.POOLING.name: expected .*none"
        ):
            built(embedding_config(NAME="tail"))
        with pytest.raises(ValueError, match=r"HEAD.NAME: .*found 'tails'"):
            built(embedding_config(NAME="tails"))


class TestObjectsAtOneSize:
    SIDE = 32.0

    def network(self) -> Any:
        return built(tail_config(OBJECT_SIDE=self.SIDE)).eval()

    def test_windows_of_one_pass(self) -> None:
        """As the describer cuts them from the photo by default, where it enters the network at its own size."""
        network, photo = self.network(), noise_photo(64, 96, seed=3)
        boxes = torch.tensor([[0.0, 0, 96, 64], [10, 20, 40, 48], [50, 5, 58, 12], [3, 3, 90, 60]])
        windows = windows_around([photo], [Regions(boxes, (64, 96))], [True] * 4, self.SIDE, torch.zeros(3))
        expected = torch.zeros(4, network.roi_heads.embedding_head.dim)
        with torch.no_grad():
            for some in windows:
                pixels = (255 * some.pixels.flip(1) - network.pixel_mean) / network.pixel_std
                for number, window, box in zip(some.numbers, pixels, some.boxes, strict=True):
                    level = lower_maps(network.backbone, window[None], ["trunk8"])["trunk8"]
                    expected[number] = network.roi_heads.embedding_head([level], [box[None]])[0]
        vectors = described(network, torch.as_tensor(photo.pixels).flip(0), boxes)
        cosines = (vectors * expected).sum(dim=1)
        assert float(cosines[[0, 2, 3]].min()) > 0.99  # bytes there, and the canvas of windows at the edge
        shared = network.roi_heads.embedding_head
        with torch.no_grad():
            pixels = network.preprocess_image([{"image": torch.as_tensor(photo.pixels).flip(0)}]).tensor
            level = network.backbone(pixels)["trunk8"]
            torch.testing.assert_close(vectors[1], shared([level], [boxes[1:2]])[0])

    def test_it_is_trained_so(self) -> None:
        network = built(tail_config(OBJECT_SIDE=self.SIDE))
        terms = losses(network, learned(), entry(seed=3, instances=truth([])))
        terms["loss_embedding"].backward()
        assert network.roi_heads.embedding_head.project.weight.grad.abs().sum() > 0

    def test_a_network_that_cannot(self) -> None:
        network = built(embedding_config(OBJECT_SIDE=self.SIDE))
        network.roi_heads.attach(None)
        with pytest.raises(TypeError, match="META_ARCHITECTURE: expected EmbeddingRCNN"):
            found(network.eval(), entry())


class TestDescribedBoxes:
    def test_boxes_of_the_photo(self, network: Any) -> None:
        photo = noise_photo(64, 80, seed=2)
        image = np.ascontiguousarray(photo.pixels[::-1].transpose(1, 2, 0))
        boxes = torch.tensor(BOXES)
        given = Instances((64, 80), pred_boxes=Boxes(boxes), pred_classes=torch.zeros(2, dtype=torch.int64))
        sent = {"image": torch.as_tensor(image.transpose(2, 0, 1).copy())}
        (told,) = found(network, sent, detected_instances=[given], do_postprocess=False)
        torch.testing.assert_close(describe_boxes(network, image, boxes), told.pred_embeddings)
        assert describe_boxes(network, image, np.zeros((0, 4))).shape == (0, DIM)

    def test_by_the_predictor(self, tmp_path: Path) -> None:
        cfg = embedding_config()
        DetectionCheckpointer(built(cfg), str(tmp_path)).save("model")
        cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
        predictor = DefaultPredictor(cfg)
        image = np.ascontiguousarray(noise_photo(200, 290).pixels.transpose(1, 2, 0))
        instances = predictor(image)["instances"]
        assert len(instances) == 6
        again = describe_boxes(predictor, image, instances.pred_boxes.tensor)
        torch.testing.assert_close(again, instances.pred_embeddings, rtol=1e-4, atol=1e-4)

    def test_wrong_arguments(self, network: Any) -> None:
        image = np.zeros((20, 30, 3), np.uint8)
        with pytest.raises(TypeError, match="expected a network with an embedding head, found StandardROIHeads"):
            describe_boxes(built(usual_config()), image, BOXES)
        with pytest.raises(ValueError, match=r"image: expected uint8 \(H, W, 3\), found float64"):
            describe_boxes(network, image / 255, BOXES)
        with pytest.raises(ValueError, match="boxes: expected finite"):
            describe_boxes(network, image, [[0.0, 0, float("nan"), 3]])


def traced(network: Any, image: torch.Tensor) -> Any:
    adapter = TracingAdapter(network, [{"image": image}], lambda m, x: m.inference(x, do_postprocess=False)[0])
    return torch.jit.trace(adapter, (image,), check_trace=False)


@pytest.mark.parametrize("head", ["embedding", "tail"])
def test_tracing_carries_the_vectors(head: str, network: Any) -> None:
    if head == "tail":
        network = built(tail_config()).eval()
    image = entry()["image"].float()
    (instances,) = found(network, {"image": image}, do_postprocess=False)
    assert any(
        o.shape == instances.pred_embeddings.shape and torch.allclose(o, instances.pred_embeddings, atol=1e-5)
        for o in traced(network, image)(image)
    )


def test_windows_cannot_be_traced() -> None:
    with pytest.raises(TypeError, match=r"OBJECT_SIDE: expected 0 in a network that is traced.*'objemb export' make"):
        traced(built(tail_config(OBJECT_SIDE=32.0)).eval(), entry()["image"].float())
