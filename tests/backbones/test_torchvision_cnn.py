from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from objemb.backbones.base import IMAGENET_MEAN, IMAGENET_STD
from objemb.backbones.torchvision_cnn import TorchvisionCnn
from objemb.checks import MissingWeightsError
from objemb.images.decode import read_photo
from objemb.weights import download
from objemb.weights.read import UnreadableWeightsError

MINIMAL = {"arch": "resnet18"}

SHARED = Path(__file__).parents[3] / "shared" / "data"
MOBILENET = SHARED / "weights" / "mobilenet_v2.pth"

# arch, layer, channels, stride, cells that may be missing from h / stride
FAMILIES = [
    ("resnet18", "layer4", 512, 32, 0),
    ("regnet_x_400mf", "trunk_output", 400, 32, 0),
    ("vgg11", "features.19", 512, 16, 0),
    ("alexnet", "features.11", 256, 16, 1),
    ("mobilenet_v2", "features", 1280, 32, 0),
    ("mobilenet_v3_small", "features", 576, 32, 0),
    ("squeezenet1_1", "features", 512, 16, 1),
    ("densenet121", "relu", 1024, 32, 0),
    ("convnext_tiny", "features", 768, 32, 0),
    ("efficientnet_b0", "features", 1280, 32, 0),
    ("mnasnet0_5", "layers", 1280, 32, 0),
    ("shufflenet_v2_x0_5", "conv5", 1024, 32, 0),
    ("googlenet", "inception5b", 1024, 32, 0),
    ("inception_v3", "Mixed_7c", 2048, 32, 2),
]


def normalised(pixels: Tensor) -> Tensor:
    return (pixels - torch.tensor(IMAGENET_MEAN).reshape(3, 1, 1)) / torch.tensor(IMAGENET_STD).reshape(3, 1, 1)


@pytest.mark.parametrize(("arch", "layer", "channels", "stride", "lost"), FAMILIES)
def test_families_declare_what_they_give(arch: str, layer: str, channels: int, stride: int, lost: int) -> None:
    backbone = TorchvisionCnn(arch)
    assert (backbone.layer, backbone.channels, backbone.stride, backbone.multiple) == (layer, channels, stride, 1)
    with torch.no_grad():
        maps = backbone(torch.rand(1, 3, 96, 161))
    assert maps.shape[1] == channels
    for cells, side in zip(maps.shape[2:], (96, 161), strict=True):
        assert math.floor(side / stride) - lost <= cells <= math.ceil(side / stride)


@pytest.mark.parametrize(
    ("layer", "channels", "stride"),
    [("bn1", 64, 2), ("maxpool", 64, 4), ("layer2", 128, 8), ("layer3", 256, 16), ("layer3.0.conv1", 256, 16)],
)
def test_a_named_layer_cuts_the_network_there(layer: str, channels: int, stride: int) -> None:
    torch.manual_seed(0)
    whole = models.resnet18(weights=None).eval()
    torch.manual_seed(0)
    backbone = TorchvisionCnn("resnet18", layer=layer)
    assert (backbone.channels, backbone.stride) == (channels, stride)
    pixels = torch.rand(2, 3, 64, 96)
    kept = {}
    whole.get_submodule(layer).register_forward_hook(lambda m, i, o: kept.update(maps=o.clone()))
    with torch.no_grad():
        whole(normalised(pixels))
        torch.testing.assert_close(backbone(pixels), kept["maps"], rtol=1e-4, atol=1e-4)  # its norms are folded
    names = backbone.network.state_dict().keys()
    assert names <= whole.state_dict().keys()
    assert not any(n.startswith(("layer4", "fc")) for n in names)


@torch.no_grad()
def test_the_layer_of_classes_is_kept_when_asked_for(tmp_path: Path) -> None:
    whole = models.resnet18(weights=None).eval()
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    backbone = TorchvisionCnn("resnet18", weights=tmp_path / "whole.pth", classes=True)
    pixels = torch.rand(1, 3, 64, 64)
    scores = backbone.class_layer()(backbone(pixels).mean(dim=(2, 3)))
    torch.testing.assert_close(scores, whole(normalised(pixels)))
    model = {f"describer.backbone.{k}": v for k, v in backbone.state_dict().items()}  # as in a model folder
    torch.save(model, tmp_path / "model.pth")
    again = TorchvisionCnn("resnet18", weights=tmp_path / "model.pth", classes=True)
    assert torch.equal(again.class_layer().weight, whole.fc.weight)
    torch.save({k: v for k, v in model.items() if ".classes." not in k}, tmp_path / "model.pth")
    with pytest.raises(UnreadableWeightsError, match=r"2 tensors of the network are missing: expected 'fc\.weight'"):
        TorchvisionCnn("resnet18", weights=tmp_path / "model.pth", classes=True)
    again.classes = None
    with pytest.raises(ValueError, match="expected classes: true, which keeps the classification layer"):
        again.class_layer()


@pytest.mark.parametrize(
    ("arch", "layer", "found"),
    [("resnet18", "layer3", "'fc', 'layer4"), ("mobilenet_v3_small", None, "'classifier.0', 'classifier.3'")],
)
def test_classes_that_are_no_function_of_the_map(arch: str, layer: str | None, found: str) -> None:
    with pytest.raises(ValueError, match=rf"classes: expected .* one linear layer above .*, found {found}"):
        TorchvisionCnn(arch, layer=layer, classes=True)


def test_the_default_map_is_what_the_network_pools() -> None:
    torch.manual_seed(0)
    whole = models.mobilenet_v2(weights=None).eval()
    torch.manual_seed(0)
    backbone = TorchvisionCnn("mobilenet_v2")
    pixels = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(backbone(pixels), whole.features(normalised(pixels)))


def test_a_max_pool_at_the_end_is_left_out_as_retrieval_does() -> None:
    """The last ReLU: no negative values, and no max-pool behind it."""
    torch.manual_seed(0)
    features = models.alexnet(weights=None).eval().features
    torch.manual_seed(0)
    backbone = TorchvisionCnn("alexnet")
    pixels = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        maps = backbone(pixels)
        torch.testing.assert_close(features[-1](maps), features(normalised(pixels)))
    assert float(maps.min()) == 0


def test_it_never_leaves_eval_mode() -> None:
    backbone = TorchvisionCnn("mobilenet_v3_small").train()
    assert not any(m.training for m in backbone.modules())
    pixels = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        together = backbone(pixels)
        alone = torch.cat([backbone(p[None]) for p in pixels])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_gradients_reach_pixels_and_weights() -> None:
    backbone = TorchvisionCnn("squeezenet1_1", layer="features.3")
    pixels = torch.rand(1, 3, 48, 48, requires_grad=True)
    backbone(pixels).sum().backward()
    assert pixels.grad is not None
    assert all(p.grad is not None for p in backbone.parameters())


def test_normalisation_is_part_of_the_state() -> None:
    backbone = TorchvisionCnn("squeezenet1_1", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    other = TorchvisionCnn("squeezenet1_1")
    other.load_state_dict(backbone.state_dict())
    pixels = torch.rand(1, 3, 48, 48)
    with torch.no_grad():
        assert torch.equal(other(pixels), backbone(pixels))
    for bad in ((0.5, 0.5), (0.1, 0.0, 0.1), (0.1, float("nan"), 0.1)):
        with pytest.raises(ValueError, match="std"):
            TorchvisionCnn("squeezenet1_1", std=bad)


def test_weights_of_the_whole_network_come_from_a_file(tmp_path: Path) -> None:
    whole = models.resnet18(weights=None).eval()
    torch.save({"state_dict": {f"module.{k}": v for k, v in whole.state_dict().items()}}, tmp_path / "a.pth")
    backbone = TorchvisionCnn("resnet18", weights=str(tmp_path / "a.pth"), layer="layer2")
    assert torch.equal(backbone.network.get_parameter("layer2.1.conv2.weight"), whole.layer2[1].conv2.weight)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(models.resnet34(weights=None).state_dict(), tmp_path / "a.pth")
    with pytest.raises(UnreadableWeightsError, match=r"another architecture: found 'layer1\.2"):
        TorchvisionCnn("resnet18", weights=tmp_path / "a.pth")
    with pytest.raises(UnreadableWeightsError, match=r"\d+ tensors of the network are missing: expected 'features"):
        TorchvisionCnn("squeezenet1_1", weights=tmp_path / "a.pth")


def test_weights_by_name_are_taken_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    published = models.get_model_weights("squeezenet1_1").DEFAULT.url.rsplit("/", 1)[-1]
    whole = models.squeezenet1_1(weights=None)
    (tmp_path / "checkpoints").mkdir()
    torch.save(whole.state_dict(), tmp_path / "checkpoints" / published)
    for name in ("IMAGENET1K_V1", "DEFAULT"):
        backbone = TorchvisionCnn("squeezenet1_1", weights=name)
        assert torch.equal(backbone.network.get_parameter("features.0.weight"), whole.features[0].weight)


def test_without_network_the_error_says_what_to_place_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args, **kwargs):
        raise OSError("unreachable")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(download, "urlopen", refuse)
    with pytest.raises(MissingWeightsError, match=r"resnet18-\w+\.pth .*unreachable.*checkpoints/resnet18-\w+\.pth"):
        TorchvisionCnn("resnet18", weights="IMAGENET1K_V1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"arch": "resnet19"}, r"arch: .*did you mean 'resnet1"),
        ({"arch": "vit_b_16"}, r"transformer 'vit_b_16'; timm_net"),
        ({"arch": "swin_t"}, "timm_net"),
        ({"arch": "fasterrcnn_resnet50_fpn"}, "arch: expected one of"),
        ({"arch": "resnet18", "layer": "layer5"}, r"found 'layer5' \(did you mean 'layer\d'\?\); .*'layer1', 'layer2'"),
        ({"arch": "resnet18", "layer": "fc"}, r"'fc': expected a feature map \(1, C, h, w\), found shape \(1, 1000\)"),
        ({"arch": "resnet18", "layer": "avgpool"}, r"'avgpool': expected a feature map that grows"),
        ({"arch": "resnet18", "weights": "IMAGENET1K_V9"}, r"'IMAGENET1K_V1', 'DEFAULT', found 'IMAGENET1K_V9'"),
    ],
)
def test_mistakes_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TorchvisionCnn(**arguments)


def test_networks_with_another_normalisation_convert_it() -> None:
    """GoogLeNet was trained with mean and deviation 0.5; its published network converts from ImageNet's."""
    backbone = TorchvisionCnn("googlenet", layer="conv1.conv")
    pixels = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = backbone.network.get_submodule("conv1.conv")((pixels - 0.5) / 0.5)
        torch.testing.assert_close(backbone(pixels), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arch", "layer", "stages"),
    [
        ("resnet18", None, {4: "layer1", 8: "layer2", 16: "layer3", 32: "layer4"}),
        ("resnet18", "layer3.0", {4: "layer1", 8: "layer2", 16: "layer3.0"}),
        ("resnet18", "layer2.0.relu", {4: "layer1", 8: "layer2.0.relu"}),
        ("mobilenet_v2", None, {4: "features.3", 8: "features.6", 16: "features.13", 32: "features"}),
        ("squeezenet1_1", None, {4: "features.4", 8: "features.7", 16: "features"}),
    ],
)
@torch.no_grad()
def test_maps_of_several_strides(arch: str, layer: str | None, stages: dict[int, str]) -> None:
    backbone = TorchvisionCnn(arch, layer=layer)
    pixels = torch.rand(1, 3, 97, 130)
    maps = backbone.maps(pixels)
    assert {stride: name for stride, (name, _) in backbone.stages.items()} == stages
    assert {stride: level.shape[1] for stride, level in maps.items()} == {s: c for s, (_, c) in backbone.stages.items()}
    assert list(maps) == sorted(maps)
    assert torch.equal(maps[backbone.stride], backbone(pixels))
    classifier, outputs = models.get_model(arch, weights=None).eval(), {}
    classifier.load_state_dict(backbone.network.state_dict(), strict=False)
    for name in stages.values():
        if layer is None:
            classifier.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: outputs.update({name: o}))
    classifier((pixels - backbone.mean) / backbone.std)
    for stride, name in stages.items() if layer is None else ():
        torch.testing.assert_close(maps[stride], outputs[name], rtol=1e-4, atol=1e-4, msg=f"the output of {name}")


@pytest.mark.parametrize("arch", ["vgg11", "regnet_y_400mf", "shufflenet_v2_x0_5"])
def test_every_family_has_stages(arch: str) -> None:
    stages = TorchvisionCnn(arch).stages
    assert set(stages) == ({4, 8, 16} if arch == "vgg11" else {4, 8, 16, 32})


@pytest.mark.shared_data
@pytest.mark.skipif(not MOBILENET.exists(), reason="needs ../shared/data")
def test_real_weights_see_what_is_alike() -> None:
    """A photo is nearer to itself, scaled down, than to any other photo."""
    backbone = TorchvisionCnn("mobilenet_v2", weights=MOBILENET)
    files = sorted((SHARED / "photos").iterdir())[::100]
    vectors = []
    with torch.no_grad():
        for side in (225, 161):
            for file in files:
                pixels = torch.as_tensor(read_photo(file).pixels)[None].float() / 255
                small = nn.functional.interpolate(pixels, (side, side), mode="bilinear", antialias=True)
                vectors.append(nn.functional.normalize(backbone(small).amax((2, 3)))[0])
    first, second = torch.stack(vectors).split(len(files))
    similarity = first @ second.T
    assert torch.equal(similarity.argmax(1), torch.arange(len(files)))


def test_a_second_network_has_the_shapes_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    first = TorchvisionCnn("mobilenet_v3_small", layer="features.3")
    monkeypatch.setattr("objemb.backbones.torchvision_cnn.meta_copy", None)
    second = TorchvisionCnn("mobilenet_v3_small", layer="features.3")
    names = ("channels", "stride", "offset", "surplus", "smallest", "stages")
    assert [getattr(second, name) for name in names] == [getattr(first, name) for name in names]
    pixels = torch.zeros(1, 3, 64, 70)
    assert {s: m.shape for s, m in second.maps(pixels).items()} == {s: m.shape for s, m in first.maps(pixels).items()}
