from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from tests.small_settings import RCNN

pytest.importorskip("detectron2")

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.structures import BitMasks
from detectron2.utils.events import EventStorage

from objemb.backbones.detector_trunk import DetectorTrunk
from objemb.checks import MissingWeightsError
from objemb.describers.one_pass import OnePass
from objemb.detectors._detectron2_config import read_file
from objemb.detectors._detectron2_losses import _BoxMasks
from objemb.detectors.detectron2_rcnn import Detectron2Rcnn
from objemb.heads.embedding import EmbeddingHead
from objemb.models import build_model, load_model
from objemb.models.origins import described
from objemb.structures import Regions
from objemb.weights.read import UnreadableWeightsError
from tests.detectors.small_detectron2 import (
    C4,
    CASCADE,
    DC5,
    DIM,
    FASTER,
    MASK,
    OPTS,
    built,
    embedding_config,
    truth,
    usual_config,
)
from tests.tiny import noise_photo

MINIMAL = {
    "opts": [
        *("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.RESNETS.STEM_OUT_CHANNELS", 8),
        *("MODEL.FPN.OUT_CHANNELS", 8, "MODEL.ROI_BOX_HEAD.FC_DIM", 8, "MODEL.RPN.POST_NMS_TOPK_TEST", 20),
    ],
    **{key: value for key, value in RCNN.items() if key != "arch"},
}

pytestmark = pytest.mark.detectron2


def detector(name: str = FASTER, seed: int = 0, **arguments: Any) -> Detectron2Rcnn:
    torch.manual_seed(seed)
    return Detectron2Rcnn(name, opts=[*OPTS[name], *arguments.pop("opts", [])], **arguments)


@pytest.fixture(scope="module")
def faster() -> Detectron2Rcnn:
    return detector()


@pytest.fixture(scope="module")
def masked() -> Detectron2Rcnn:
    return detector(MASK)


def saved(tmp_path: Path, name: str = FASTER, seed: int = 7) -> Path:
    """A checkpoint as Detectron2 leaves it."""
    DetectionCheckpointer(built(usual_config(name), seed), str(tmp_path)).save("model_final", iteration=3)
    return tmp_path / "model_final.pth"


def same_weights(first: Detectron2Rcnn, state: dict[str, Any]) -> bool:
    return all(torch.equal(v, torch.as_tensor(state[k])) for k, v in first.network.state_dict().items())


def test_boxes_equal_those_of_detectron2(faster: Detectron2Rcnn) -> None:
    given = noise_photo(200, 290)
    found = faster.detect([given])[0]
    pixels = torch.as_tensor(given.pixels).flip(0).permute(1, 2, 0).numpy()  # BGR, as OpenCV reads
    resized = ResizeShortestEdge([64, 64], 96).get_transform(pixels).apply_image(pixels)
    with torch.no_grad():
        entry = {"image": torch.from_numpy(resized.copy()).permute(2, 0, 1).float(), "height": 200, "width": 290}
        expected = faster.network([entry])[0]["instances"]
    assert len(found) == 6
    # the two ways to resize bytes differ by a grey level here and there
    torch.testing.assert_close(torch.as_tensor(found.boxes), expected.pred_boxes.tensor, rtol=0, atol=0.5)
    torch.testing.assert_close(torch.as_tensor(found.scores), torch.as_tensor(expected.scores), rtol=0, atol=2e-3)


def test_one_pass_equals_the_instances_of_detectron2(tmp_path: Path) -> None:
    """The same weights and boxes, through Detectron2's own ROI heads and through the describer of all detectors."""
    network = built(embedding_config(), seed=3).eval()
    DetectionCheckpointer(network, str(tmp_path)).save("model_final")
    head = EmbeddingHead(dim=DIM, width=8, depth=1)
    describer = OnePass(detector=detector(weights=tmp_path / "model_final.pth"), head=head)
    describer.head.load_state_dict(network.roi_heads.embedding_head.state_dict())
    given = noise_photo(64, 80, seed=4, size=(640, 800))
    with torch.no_grad():
        entry = {"image": torch.as_tensor(given.pixels).flip(0), "height": 640, "width": 800}
        expected = network([entry])[0]["instances"]
    assert len(expected) == 6
    regions = Regions(expected.pred_boxes.tensor, (640, 800))
    (described,) = describer.describe([given], [regions])
    torch.testing.assert_close(torch.as_tensor(described.vectors), expected.pred_embeddings, rtol=1e-4, atol=1e-5)
    (looked,) = describer.detector.detect([given])
    torch.testing.assert_close(torch.as_tensor(looked.boxes), expected.pred_boxes.tensor, rtol=1e-4, atol=1e-2)
    assert torch.equal(torch.as_tensor(looked.labels), expected.pred_classes)


def test_colours_are_the_configs_affair(faster: Detectron2Rcnn) -> None:
    red_green_blue = detector(opts=["INPUT.FORMAT", "RGB", "MODEL.PIXEL_MEAN", [123.675, 116.28, 103.53]])
    state = faster.network.state_dict()
    first = "backbone.bottom_up.stem.conv1.weight"
    red_green_blue.network.load_state_dict({**state, first: state[first].flip(1)})
    given = [noise_photo(60, 90)]
    torch.testing.assert_close(
        torch.as_tensor(red_green_blue.detect(given)[0].boxes),
        torch.as_tensor(faster.detect(given)[0].boxes),
        rtol=0,
        atol=1e-2,
    )
    torch.testing.assert_close(faster.mean, torch.tensor([123.675, 116.28, 103.53]) / 255)
    torch.testing.assert_close(red_green_blue.mean, faster.mean)
    torch.testing.assert_close(faster.std, torch.ones(3) / 255)
    batch = faster.preprocess([noise_photo(64, 96)])
    expected = (torch.as_tensor(noise_photo(64, 96).pixels).float() / 255 - faster.mean[:, None, None]) / faster.std[
        :, None, None
    ]
    torch.testing.assert_close(batch.tensors[0].flip(0), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "pyramid", "trunk"),
    [
        (FASTER, ("p2", "p3", "p4", "p5"), ["trunk4", "trunk8", "trunk16", "trunk32"]),
        (C4, ("res4",), ["trunk4", "trunk8", "trunk16"]),
        (DC5, ("res5",), ["trunk4", "trunk8", "trunk16"]),
    ],
)
@torch.no_grad()
def test_levels(name: str, pyramid: tuple[str, ...], trunk: list[str]) -> None:
    network = detector(name)
    assert network.pyramid == pyramid
    levels = network.levels()
    assert list(levels) == [*pyramid, *trunk]
    maps = network.features(network.preprocess([noise_photo(64, 96)]))
    for level, (channels, stride) in levels.items():
        assert maps[level].shape == (1, channels, 64 // stride, 96 // stride)


@torch.no_grad()
def test_trunk_levels_are_those_below_the_pyramid(faster: Detectron2Rcnn) -> None:
    batch = faster.preprocess([noise_photo(64, 96)])
    maps, below = faster.features(batch), faster.network.backbone.bottom_up(batch.tensors)
    for stage, stride in (("res2", 4), ("res3", 8), ("res4", 16), ("res5", 32)):
        assert torch.equal(maps[f"trunk{stride}"], below[stage])
    assert not faster.network.backbone.bottom_up._forward_hooks


def test_some_maps_are_those_of_all(faster: Detectron2Rcnn) -> None:
    batch = faster.preprocess([noise_photo(64, 96)])
    everything = faster.features(batch)
    for names in (("trunk4",), ("trunk8", "trunk16"), (faster.pyramid[0], "trunk8")):
        some = faster.maps(batch, names)
        assert set(some) == set(names)
        assert all(torch.equal(map_, everything[name]) for name, map_ in some.items())
    ran = []
    hook = faster.network.backbone.bottom_up.res4.register_forward_hook(lambda *_: ran.append("res4"))
    faster.maps(batch, ("trunk8",))
    hook.remove()
    assert not ran, "what is behind the level"


@pytest.mark.parametrize("levels", [None, ["trunk8"]])
def test_objects_of_every_size_are_seen_at_one(faster: Detectron2Rcnn, levels: list[str] | None) -> None:
    """Windows fit the levels of a pyramid as well as those of the trunk below it."""
    one = OnePass(detector=faster, head=EmbeddingHead(dim=8, width=16, levels=levels), object_side=40)
    given = noise_photo(200, 300)
    boxes = Regions(torch.tensor([[3.0, 4, 20, 30], [50, 50, 90, 80], [0, 0, 300, 200]]), given.size)
    vectors = torch.as_tensor(one.describe([given], [boxes])[0].vectors)
    assert vectors.shape == (3, 8)
    assert torch.allclose(torch.as_tensor(one.describe([given])[0].vectors)[0], vectors[2], atol=1e-5)


def test_photos_share_a_batch_when_they_are_padded_alike(faster: Detectron2Rcnn) -> None:
    photos = [noise_photo(60, 80), noise_photo(80, 60), noise_photo(64, 84), noise_photo(1, 300)]
    assert faster.groups(photos) == [[0, 2], [1], [3]]
    assert detector(C4).groups(photos[:3]) == [[0], [1], [2]], "without a pyramid nothing is padded"


def test_boxes_are_in_original_pixels(faster: Detectron2Rcnn) -> None:
    small, large = faster.detect([noise_photo(70, 100)])[0], faster.detect([noise_photo(70, 100, size=(280, 300))])[0]
    assert large.size == (280, 300)
    torch.testing.assert_close(
        torch.as_tensor(large.boxes), torch.as_tensor(small.boxes) * torch.tensor([3.0, 4, 3, 4]), rtol=1e-4, atol=1e-2
    )
    assert faster.decode_side() == 1 << 16


def test_masks_are_within_the_boxes(masked: Detectron2Rcnn) -> None:
    found = masked.detect([noise_photo(60, 90)])[0]
    masks = found.array("masks")
    assert masks is not None
    assert masks.shape == (len(found), 28, 28)
    assert masks.dtype == np.uint8
    assert (masks.max(axis=(1, 2)) == 1).all(), "an object of which no cell is sure is attended to as a whole"


@pytest.mark.parametrize("name", [FASTER, C4, DC5])
def test_cells_look_around_the_first_pixel(name: str) -> None:
    found = detector(name)
    for level, (_, stride) in found.levels().items():
        assert DetectorTrunk(detector=found, level=level).offset == (1 - stride) / 2


def test_proposals(faster: Detectron2Rcnn) -> None:
    given = noise_photo(60, 90, size=(120, 180))
    batch = faster.preprocess([given])
    (proposals,) = faster.proposals(batch, faster.features(batch), [given])
    assert 0 < len(proposals) <= 20
    assert proposals.size == (120, 180)


class TestLosses:
    PHOTOS = (noise_photo(60, 80), noise_photo(64, 85, seed=1))
    TRUE = Regions(torch.tensor([[4.0, 4, 40, 50], [30, 20, 78, 58]]), (60, 80), labels=torch.tensor([0, 2]))

    def losses(self, network: Detectron2Rcnn, *targets: Regions) -> dict[str, torch.Tensor]:
        batch = network.preprocess(self.PHOTOS)
        torch.manual_seed(0)
        return network.losses(batch, network.features(batch), targets, self.PHOTOS)

    @pytest.mark.parametrize("name", [FASTER, CASCADE, C4])
    def test_terms(self, name: str) -> None:
        network = detector(name).requires_grad_(True)
        terms = self.losses(network, self.TRUE, Regions.empty((64, 85)))
        assert {"loss_rpn_cls", "loss_rpn_loc"} < set(terms)
        assert "loss_mask" not in terms, "nobody said what the masks are"
        sum(terms.values()).backward()
        learning = [k for k, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
        assert {k.split(".")[1] for k in learning} == {"backbone", "proposal_generator", "roi_heads"}
        assert not any(m.training for m in network.modules())

    def test_they_are_those_of_detectron2_in_training_mode(self, faster: Detectron2Rcnn) -> None:
        mine = self.losses(faster, self.TRUE, Regions.empty((64, 85)))
        batch = faster.preprocess(self.PHOTOS)
        factors = torch.tensor([85 / 80, 64 / 60] * 2)
        instances = [truth((torch.as_tensor(self.TRUE.boxes) * factors).tolist(), (64, 85)), truth([], (64, 85))]
        instances[0].gt_classes = torch.as_tensor(self.TRUE.labels)
        network = built(usual_config())
        network.load_state_dict(faster.network.state_dict())
        with torch.no_grad(), EventStorage():
            torch.manual_seed(0)
            features = network.backbone(batch.tensors)
            proposals, expected = network.proposal_generator(batch, features, instances)
            expected |= network.roi_heads(batch, features, proposals, instances)[1]
        assert set(mine) == set(expected)
        for name, value in expected.items():
            torch.testing.assert_close(mine[name], value)

    def test_without_a_box(self, masked: Detectron2Rcnn) -> None:
        terms = self.losses(masked, Regions.empty((60, 80)), Regions.empty((64, 85)))
        assert all(bool(torch.isfinite(t)) for t in terms.values())

    def test_masks(self, masked: Detectron2Rcnn) -> None:
        full = torch.ones(2, 9, 7, dtype=torch.uint8)
        taught = Regions(self.TRUE.boxes, (60, 80), labels=self.TRUE.labels, extras={"masks": full})
        other = Regions(self.TRUE.boxes, (60, 80), labels=self.TRUE.labels, extras={"masks": 0 * full})
        ones = self.losses(masked, taught, Regions.empty((64, 85)))["loss_mask"]
        zeros = self.losses(masked, other, Regions.empty((64, 85)))["loss_mask"]
        assert abs(float((ones - zeros).detach())) > 0.01
        half = self.losses(
            masked, taught, Regions(torch.tensor([[4.0, 4, 40, 50]]), (64, 85), labels=torch.tensor([1]))
        )
        assert "loss_mask" not in half, "a batch teaches masks when all its boxes have them"
        assert masked.network.roi_heads.mask_on

    def test_masks_within_boxes_are_as_good_as_masks_of_the_image(self) -> None:
        boxes = torch.tensor([[10.0, 20, 42, 52], [0, 0, 64, 64]])
        masks = torch.zeros(2, 16, 16)
        masks[0, :, :8] = masks[1, 4:12] = 1
        images = torch.zeros(2, 64, 64, dtype=torch.bool)
        images[0, 20:52, 10:26] = images[1, 16:48] = True
        asked = torch.tensor([[12.0, 18, 50, 50], [5, 10, 60, 60]])
        expected = BitMasks(images).crop_and_resize(asked, 28).float()
        found = _BoxMasks(boxes, masks)[torch.tensor([0, 1])].crop_and_resize(asked, 28)
        assert ((found > 0.5).float() - expected).abs().mean() < 0.05

    def test_tiny_boxes_and_wrong_labels(self, faster: Detectron2Rcnn) -> None:
        line = Regions(torch.tensor([[4.0, 4, 40, 4.1]]), (60, 80), labels=torch.tensor([0]))
        terms = self.losses(faster, line, Regions.empty((64, 85)))
        assert all(bool(torch.isfinite(t)) for t in terms.values())
        wrong = Regions(torch.tensor([[4.0, 4, 40, 50]]), (60, 80), labels=torch.tensor([3]))
        with pytest.raises(ValueError, match="labels from 0 to 2, found 3"):
            self.losses(faster, wrong, Regions.empty((64, 85)))
        assert not any(m.training for m in faster.modules())


class TestConfig:
    def test_a_file_of_ones_own(self, faster: Detectron2Rcnn, tmp_path: Path) -> None:
        own = {"_BASE_": "base.yaml", "MODEL": {"ROI_EMBEDDING_HEAD": {"DIM": 7}}, "TEST": {"DETECTIONS_PER_IMAGE": 2}}
        (tmp_path / "base.yaml").write_text(yaml.safe_dump(read_file(FASTER)), encoding="utf-8")
        (tmp_path / "own.yaml").write_text(yaml.safe_dump(own), encoding="utf-8")
        torch.manual_seed(0)
        opts = [*OPTS[FASTER], "TEST.DETECTIONS_PER_IMAGE", 3]
        network = Detectron2Rcnn(tmp_path / "own.yaml", opts=opts)
        assert len(network.detect([noise_photo(60, 80)])[0]) == 3
        assert same_weights(network, faster.network.state_dict()), "the head is the describer's"

    def test_unknown_keys_of_the_input_are_left_out(self) -> None:
        content: dict[str, Any] = {
            **read_file(FASTER),
            "SOLVER": {"MY_RATE": 1},
            "INPUT": {"MY_CROP": 3, "FORMAT": "RGB"},
        }
        assert not Detectron2Rcnn(content, opts=OPTS[FASTER]).bgr

    def test_limits(self) -> None:
        network = detector(score_threshold=0.9, max_detections=2, min_size=32, max_size=40, num_classes=5)
        assert len(network.detect([noise_photo(60, 80)])[0]) == 0
        assert network.decode_side() == 1 << 16
        assert network.preprocess([noise_photo(60, 80)]).image_sizes == [(30, 40)]
        assert network.network.roi_heads.num_classes == 5

    def test_classes(self) -> None:
        assert detector(opts=["MODEL.ROI_HEADS.NUM_CLASSES", 80]).classes[:2] == ("person", "bicycle")
        assert detector().classes == (), "three unknown ones"
        named = detector(classes=["cup", "jar"])
        assert named.classes == ("cup", "jar")
        assert named.network.roi_heads.num_classes == 2
        with pytest.raises(ValueError, match="expected 3 names as num_classes says, found 2"):
            detector(classes=["cup", "jar"], num_classes=3)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"config": "COCO-Detection/faster_rcn_R_50_FPN_3x.yaml"}, "did you mean 'COCO-Detection/faster_rcnn_R_50"),
            ({"config": "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml"}, "KEYPOINT_ON: expected one of False"),
            (
                {"config": "COCO-Detection/rpn_R_50_FPN_1x.yaml"},
                "expected a network with ROI heads, .*found ProposalNetwork",
            ),
            ({"config": "COCO-Detection/fast_rcnn_R_50_FPN_1x.yaml"}, "PROPOSAL_GENERATOR.NAME: expected one of 'RPN'"),
            ({"config": {"MODEL": {"DEPHT": 5}}}, "found: 'MODEL.DEPHT', which are not keys of Detectron2"),
            ({"opts": ["MODEL.RESNETS.DEPTH"]}, "odd length"),
            ({"opts": ["INPUT.FORMAT", "L"]}, "INPUT.FORMAT: expected one of 'BGR', 'RGB', found 'L'"),
            ({"score_threshold": 2}, "score_threshold: expected a number from 0 to 1, found 2"),
            ({"min_size": 0}, "min_size: expected an integer of 1 or more"),
        ],
    )
    def test_errors(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            Detectron2Rcnn(**arguments)

    def test_yaml_that_would_run(self, tmp_path: Path) -> None:
        (tmp_path / "bad.yaml").write_text("A: !!python/object/apply:os.getcwd []", encoding="utf-8")
        with pytest.raises(ValueError, match=r"bad.yaml: expected a Detectron2 config, found: .*constructor"):
            Detectron2Rcnn(tmp_path / "bad.yaml")


class TestWeights:
    def test_of_its_trainer(self, tmp_path: Path) -> None:
        file = saved(tmp_path)
        assert same_weights(detector(weights=file), torch.load(file, weights_only=True)["model"])

    def test_of_its_model_zoo(self, tmp_path: Path) -> None:
        state = {k: v.numpy() for k, v in built(usual_config(), seed=7).state_dict().items()}
        anchors = {"proposal_generator.anchor_generator.cell_anchors.0": np.zeros((3, 4), np.float32)}
        content = {"model": {**state, **anchors}, "__author__": "Detectron2 Model Zoo"}
        (tmp_path / "model_final.pkl").write_bytes(pickle.dumps(content))
        assert same_weights(detector(weights=tmp_path / "model_final.pkl"), state)

    def test_of_a_classifier(self, tmp_path: Path, faster: Detectron2Rcnn, caplog: pytest.LogCaptureFixture) -> None:
        trunk = {k: v.numpy() for k, v in built(usual_config(), seed=7).backbone.bottom_up.state_dict().items()}
        content = {"model": {**trunk, "stem.fc.weight": np.ones(3)}, "__author__": "x", "matching_heuristics": True}
        (tmp_path / "R-18.pkl").write_bytes(pickle.dumps(content))
        network = detector(weights=tmp_path / "R-18.pkl")
        expected = faster.network.state_dict() | {f"backbone.bottom_up.{k}": v for k, v in trunk.items()}
        assert same_weights(network, expected)
        assert "the heads stay random" in caplog.text
        assert network.random_parts == ("proposal generator", "ROI heads")
        part = {
            "name": "detectron2_rcnn",
            "config": FASTER,
            "opts": OPTS[FASTER],
            "weights": str(tmp_path / "R-18.pkl"),
        }
        crops = {"name": "pooled_regions", "extractor": {"name": "crop", "size": 33}, "pooling": {"name": "mean"}}
        narrow = {"name": "narrow_resnet", "width": 4, "blocks": [1, 1, 1, 1], "weights": "random"}
        regions = {"name": "detections", "detector": part}
        model = build_model({"describer": {**crops, "backbone": narrow, "regions": regions}})
        assert model.untrained == ["describer.regions.detector", "describer.backbone"]
        origin = described(model.settings, model.provenance)["describer.regions.detector"]
        assert origin.endswith("where 'proposal generator', 'ROI heads' were random)")
        del content["model"]["res3.0.conv1.weight"]
        (tmp_path / "R-18.pkl").write_bytes(pickle.dumps(content))
        with pytest.raises(UnreadableWeightsError, match=r"1 tensors of the trunk are missing: .*res3.0.conv1.weight"):
            detector(weights=tmp_path / "R-18.pkl")

    def test_that_do_not_fit(self, tmp_path: Path) -> None:
        file = saved(tmp_path)
        with pytest.raises(ValueError, match="expected weights for 4 classes, found 3; pass num_classes=3"):
            detector(weights=file, num_classes=4)
        with pytest.raises(UnreadableWeightsError, match=r"do not fit|another architecture|are missing"):
            detector(MASK, weights=file)
        with pytest.raises(MissingWeightsError, match=r"found no file .*nowhere.pkl"):
            detector(weights=tmp_path / "nowhere.pkl")

    def test_pickles_are_not_run(self, tmp_path: Path) -> None:
        for content in ({"model": print, "__author__": "x"}, {"model": np.array([print], dtype=object)}, [1]):
            (tmp_path / "bad.pkl").write_bytes(pickle.dumps(content))
            with pytest.raises(UnreadableWeightsError, match=r"bad.pkl: expected"):
                detector(weights=tmp_path / "bad.pkl")


def test_a_model_folder_travels(tmp_path: Path) -> None:
    """Without the config file that the model was made with."""
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({**read_file(FASTER), "OUTPUT_DIR": "here"}), encoding="utf-8")
    part = {"name": "detectron2_rcnn", "config": str(tmp_path / "own.yaml"), "opts": OPTS[FASTER], "weights": "random"}
    head = {"name": "embedding", "dim": DIM, "width": 8, "depth": 1, "weights": "random"}
    one_pass = {"name": "one_pass", "detector": part, "head": head, "min_score": 0.0}
    model = build_model({"describer": one_pass})
    model.save(tmp_path / "model")
    config = model.settings["describer"]["detector"]["config"]
    assert set(config) == {"VERSION", "MODEL", "INPUT", "DATASETS"}, "nothing about a training"
    assert "WEIGHTS" not in config["MODEL"]
    (tmp_path / "own.yaml").unlink()
    loaded = load_model(tmp_path / "model")
    given = noise_photo(60, 80).pixels.transpose(1, 2, 0)
    before, after = model.describe(given), loaded.describe(given)
    assert torch.equal(torch.as_tensor(before.vectors), torch.as_tensor(after.vectors))
    assert len(before.regions) > 1
