from __future__ import annotations

import builtins
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from objemb.checks import MissingWeightsError
from objemb.weights.read import UnreadableWeightsError

timm = pytest.importorskip("timm")

from objemb.backbones import timm_net  # noqa: E402
from objemb.backbones.timm_net import TimmNet  # noqa: E402

MINIMAL = {"arch": "test_resnet"}

# arch, channels, stride, multiple, an input size, cells
NETWORKS = [
    ("resnet10t", 512, 32, 1, (97, 130), (4, 5)),
    ("convnext_atto", 320, 32, 1, (97, 130), (3, 4)),
    ("mobilenetv3_small_050", 288, 32, 1, (64, 97), (2, 4)),
    ("vit_tiny_patch16_224", 192, 16, 16, (64, 96), (4, 6)),
    ("vit_small_patch14_dinov2", 384, 14, 14, (70, 98), (5, 7)),
    ("vit_small_patch14_reg4_dinov2", 384, 14, 14, (42, 70), (3, 5)),
    ("swin_tiny_patch4_window7_224", 768, 32, 32, (64, 96), (2, 3)),
    ("hrnet_w18_small", 1024, 32, 32, (64, 96), (2, 3)),
    ("levit_128s", 384, 64, 224, (224, 224), (4, 4)),
    ("coat_tiny", 152, 32, 224, (224, 224), (7, 7)),
]


@pytest.mark.parametrize(("arch", "channels", "stride", "multiple", "size", "cells"), NETWORKS)
def test_networks_declare_what_they_give(arch, channels, stride, multiple, size, cells) -> None:
    backbone = TimmNet(arch)
    assert (backbone.channels, backbone.stride, backbone.multiple) == (channels, stride, multiple)
    with torch.no_grad():
        assert backbone(torch.rand(1, 3, *size)).shape == (1, channels, *cells)
    assert not any(m.training for m in backbone.train().modules())


def test_maps_equal_those_of_timm() -> None:
    torch.manual_seed(0)
    reference = timm.create_model("resnet10t", features_only=True, out_indices=[3]).eval()
    torch.manual_seed(0)
    pixels = torch.rand(2, 3, 64, 80)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    for layer in (3, -2, "layer3"):
        backbone = TimmNet("resnet10t", layer=layer)
        backbone.network.load_state_dict(reference.state_dict())
        with torch.no_grad():
            expected = reference((pixels - mean.reshape(3, 1, 1)) / std.reshape(3, 1, 1))[0]
            torch.testing.assert_close(backbone(pixels), expected)
        assert (backbone.channels, backbone.stride) == (256, 16)


@torch.no_grad()
def test_maps_of_all_strides_equal_those_of_timm() -> None:
    torch.manual_seed(0)
    reference = timm.create_model("test_efficientnet", features_only=True, out_indices=[1, 2, 3]).eval()
    backbone, pixels = TimmNet("test_efficientnet", layer=-2), torch.rand(2, 3, 64, 80)
    kept = backbone.network.state_dict().keys()
    backbone.network.load_state_dict({name: v for name, v in reference.state_dict().items() if name in kept})
    assert backbone.stages == {4: ("blocks.1", 24), 8: ("blocks.2", 32), 16: ("blocks.3", 48)}
    expected = reference((pixels - backbone.mean) / backbone.std)
    for found, map_ in zip(backbone.maps(pixels).values(), expected, strict=True):
        torch.testing.assert_close(found, map_)


@pytest.mark.parametrize(
    ("arch", "reason"),
    [
        ("vit_tiny_patch16_224", "maps of several strides, .*found vit_tiny_patch16_224 of timm, which gives one map"),
        ("levit_128s", "maps of several strides, .*found levit_128s of timm, which gives one map"),
    ],
)
def test_networks_of_one_map(arch: str, reason: str) -> None:
    """All maps of one stride; and one size only, so that no photo fits as it is."""
    backbone = TimmNet(arch)
    assert backbone.stages == backbone.offsets() == {}
    with pytest.raises(TypeError, match=reason):
        backbone.maps(torch.rand(1, 3, 224, 224))
    with pytest.raises(
        TypeError, match=f"whose upper layers can be taken, .*found {arch} of timm, which gives one map"
    ):
        backbone.upper(8)


def test_networks_with_maps_that_cannot_be_cut() -> None:
    swin, joined = TimmNet("swin_tiny_patch4_window7_224"), TimmNet("hrnet_w18_small")
    assert list(swin.maps(torch.rand(1, 3, 64, 96))) == [4, 8, 16, 32]
    with pytest.raises(
        TypeError, match=r"found swin_tiny_patch4_window7_224 of timm, whose layers torch.fx cannot trac"
    ):
        swin.upper(8)
    with pytest.raises(ValueError, match="stride: expected a map from which all later layers are computed, found 8"):
        joined.upper(8)


def test_what_torch_fx_misunderstands_is_no_upper_part(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = TimmNet("test_resnet")
    monkeypatch.setattr(timm_net, "upper_part", lambda traced, below, last: torch.nn.Identity())
    with pytest.raises(TypeError, match=r"found test_resnet of timm, which torch\.fx does not trace correctly"):
        backbone.upper(8)


def test_cells_of_a_transformer_are_its_patches() -> None:
    """The map of a ViT is its patch tokens after the final norm, row by row."""
    backbone = TimmNet("vit_tiny_patch16_224")
    pixels = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        tokens = backbone.network.forward_features((pixels - 0.5) / 0.5)[:, 1:]
        torch.testing.assert_close(backbone(pixels).flatten(2).transpose(1, 2), tokens)
        raw = TimmNet("vit_tiny_patch16_224", norm=False)
        assert float(backbone(pixels).std(1).sub(1).abs().max()) < 0.05
        assert raw(pixels).shape == (1, 192, 4, 6)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"multiples of 16, found 64 x 97"):
        TimmNet("vit_tiny_patch16_224")(torch.rand(1, 3, 64, 97))
    with pytest.raises(ValueError, match=r"expected 224 x 224, the only size of this network, found 448 x 224"):
        TimmNet("levit_128s")(torch.rand(1, 3, 448, 224))


def test_a_fixed_size_can_be_chosen() -> None:
    backbone = TimmNet("mixer_s32_224", image_size=96)
    assert backbone.multiple == 96
    with torch.no_grad():
        assert backbone(torch.rand(1, 3, 96, 96)).shape == (1, 512, 3, 3)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_of_the_whole_network_come_from_a_file(tmp_path: Path, suffix: str) -> None:
    whole = timm.create_model("vit_tiny_patch16_224", num_classes=7).eval()
    file = tmp_path / f"a{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": whole.state_dict()}, file)
    else:
        save_file(whole.state_dict(), file)
    backbone = TimmNet("vit_tiny_patch16_224", weights=file, layer="blocks.5")
    pixels = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        expected = whole.forward_intermediates((pixels - 0.5) / 0.5, indices=[5], norm=True, intermediates_only=True)[0]
        torch.testing.assert_close(backbone(pixels), expected)
    assert not any(n.startswith(("blocks.6", "head")) for n in backbone.network.state_dict())


def test_position_embeddings_follow_the_image_size(tmp_path: Path) -> None:
    torch.save(timm.create_model("vit_tiny_patch16_224").state_dict(), tmp_path / "a.pth")
    backbone = TimmNet("vit_tiny_patch16_224", weights=tmp_path / "a.pth", image_size=64)
    assert backbone.network.pos_embed.shape == (1, 17, 192)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(timm.create_model("mobilenetv3_small_050").state_dict(), tmp_path / "a.pth")
    for arch in ("resnet10t", "vit_tiny_patch16_224"):
        with pytest.raises(UnreadableWeightsError, match=r"a\.pth"):
            TimmNet(arch, weights=tmp_path / "a.pth")


def test_mean_and_deviation_are_those_of_the_tag_and_part_of_the_state() -> None:
    plain, tagged = TimmNet("resnet50", layer=0), TimmNet("resnet50.tv_in1k", layer=0)
    assert tagged.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert TimmNet("vit_tiny_patch16_224").mean.flatten().tolist() == [0.5, 0.5, 0.5]
    assert {"mean", "std"} <= plain.state_dict().keys()


@pytest.mark.parametrize("arguments", [{"weights": "pretrained"}, {"weights": "c3_in1k"}])
def test_published_weights_are_fetched_by_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments) -> None:
    whole = timm.create_model("resnet10t")
    torch.save(whole.state_dict(), tmp_path / "a.pth")
    asked = []
    monkeypatch.setattr(timm_net, "fetch", lambda url, name=None: asked.append((url, name)) or tmp_path / "a.pth")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args: None)
    backbone = TimmNet("resnet10t", **arguments)
    assert torch.equal(backbone.network.layer1[0].conv1.weight, whole.layer1[0].conv1.weight)
    assert asked[0][0].endswith("/timm/resnet10t.c3_in1k/resolve/main/model.safetensors")
    assert asked[0][1] == "timm--resnet10t.c3_in1k--model.safetensors"


def test_unpublished_weights_are_missing() -> None:
    with pytest.raises(MissingWeightsError, match="timm publishes none for"):
        timm_net._published_file({"architecture": "own"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"arch": "resnet10"}, r"found 'resnet10' \(did you mean 'resnet10t'\?\)"),
        ({"arch": "hf-hub:someone/net"}, "expected a network of timm"),
        ({"arch": "resnet10t.c4_in1k"}, r"tag of resnet10t: expected one of 'c3_in1k', found 'c4_in1k'"),
        ({"arch": "resnet10t", "layer": 5}, "layer: expected a number from -5 to 4, found 5"),
        ({"arch": "resnet10t", "layer": "layer5"}, r"'layer4', found 'layer5'"),
        ({"arch": "resnet10t", "image_size": 64}, "resnet10t has no fixed input size; found 64"),
        ({"arch": "resnet10t", "weights": "c3_in2k"}, r"'pretrained', 'c3_in1k', found 'c3_in2k' \(did you mean"),
        ({"arch": "hiera_tiny_224"}, "some networks have no norm for their features"),
        ({"arch": "crossvit_9_240"}, "stride 17 as declared, found shape"),
    ],
)
def test_mistakes_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TimmNet(**arguments)


def test_a_missing_timm_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_timm(name, *args, **kwargs):
        if name.split(".")[0] == "timm":
            raise ImportError("none")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_timm)
    with pytest.raises(ImportError, match=r"pip install 'objemb\[timm\]'"):
        TimmNet("resnet10t")
