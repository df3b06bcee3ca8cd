from __future__ import annotations

import argparse
import datetime
import gzip
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from objemb.backbones.narrow_resnet import NarrowResnet
from objemb.weights.read import UnreadableWeightsError, read_weights

STATE = {"a.weight": torch.arange(4.0), "a.bias": torch.ones(1)}
BESIDE: dict[str, Any] = {
    "best": np.float64(0.5),
    "epoch": np.int64(3),
    "curve": np.arange(3),
    "args": argparse.Namespace(lr=0.1, out=Path("x")),
    "when": datetime.datetime(2020, 1, 2),
}


def expect_state(found: dict[str, Tensor]) -> None:
    assert list(found) == list(STATE)
    assert all(torch.equal(found[k], v) for k, v in STATE.items())


@pytest.mark.parametrize("zipped", [True, False])
def test_what_is_beside_the_tensors_is_left_aside(tmp_path: Path, zipped: bool) -> None:
    torch.save({**BESIDE, "state_dict": STATE}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    expect_state(read_weights(tmp_path / "a.pth"))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"net": s, "acc": 0.5},
        lambda s: {"network": s},
        lambda s: {"teacher": s, "student": {k: v + 1 for k, v in s.items()}, "optimizer": {"state": {}}},
        lambda s: {"ema": s},
        lambda s: {"model_ema": s, "iteration": 3},
        lambda s: {"ema": {"module": s, "updates": 7}},
        lambda s: {"state_dict": s, "state_dict_ema": {k: v + 1 for k, v in s.items()}},
        lambda s: {"checkpoint": 1, "model": {"state_dict": {f"module.{k}": v for k, v in s.items()}}},
    ],
)
def test_state_dicts_under_other_keys_are_found(tmp_path: Path, wrap: Any) -> None:
    torch.save(wrap(STATE), tmp_path / "a.pth")
    expect_state(read_weights(tmp_path / "a.pth"))


@pytest.mark.parametrize("name", ["model.bin", "model.pth", "model", "model.safetensors"])
def test_the_content_says_what_a_file_is(tmp_path: Path, name: str) -> None:
    save_file(STATE, tmp_path / name)
    assert {k: v.tolist() for k, v in read_weights(tmp_path / name).items()} == {
        k: v.tolist() for k, v in STATE.items()
    }
    torch.save(STATE, tmp_path / name)
    expect_state(read_weights(tmp_path / name))


@pytest.mark.parametrize("first", b"{[< B7")
def test_the_length_of_a_header_looks_like_nothing_else(tmp_path: Path, first: int) -> None:
    """The first byte of safetensors is that of a length: a brace, or the beginning of a page, by chance."""
    save_file(STATE, tmp_path / "a.safetensors")
    content = (tmp_path / "a.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + length], content[8 + length :]
    longer = header.ljust(256 + first)
    (tmp_path / "a.safetensors").write_bytes(len(longer).to_bytes(8, "little") + longer + data)
    assert read_weights(tmp_path / "a.safetensors").keys() == STATE.keys()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
            "a pointer of Git LFS.*'git lfs pull'",
        ),
        (b"/annex/objects/SHA256E-s1--00.pth\n", "a pointer of git-annex.*'git annex get'"),
        (b"<!DOCTYPE html><html>", "a web page.*'resolve' in the place of 'blob'"),
        (b"\n <html lang='en'>", "a web page"),
        (b'<?xml version="1.0"?><Error>', "a web page"),
        (gzip.compress(b"weights", mtime=0), "an archive: unpack it"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file of Keras"),
        (b'{"metadata": {}, "weight_map": {}}', "a text in JSON: if it is the index of weights in several files"),
        (b"", "an empty file"),
    ],
)
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_files_without_weights_are_refused_with_advice(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableWeightsError, match=rf"{name}: expected weights, found {message}"):
        read_weights(tmp_path / name)


def test_whole_networks_and_programs_are_refused_with_advice(tmp_path: Path) -> None:
    network = torchvision.models.squeezenet1_1()
    for zipped in (True, False):
        torch.save({"model": network}, tmp_path / "whole.pth", _use_new_zipfile_serialization=zipped)
        with pytest.raises(
            UnreadableWeightsError, match=r"\(torchvision.*SqueezeNet\).*save its tensors alone: torch\."
        ):
            read_weights(tmp_path / "whole.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "program.pt")
    with pytest.raises(UnreadableWeightsError, match=r"a program of TorchScript.*torch\.jit\.load\(FILE\)\.state_dict"):
        read_weights(tmp_path / "program.pt")


class Harmful:
    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> Any:
        import os
        import shutil

        return {"system": (os.system, ("exit 3",)), "rmtree": (shutil.rmtree, ("/nowhere",)), "eval": (eval, ("1",))}[
            self.name
        ]


@pytest.mark.parametrize("name", ["system", "rmtree", "eval"])
def test_nothing_is_run_whatever_is_beside_it(tmp_path: Path, name: str) -> None:
    torch.save({**BESIDE, "harm": Harmful(name), "state_dict": STATE}, tmp_path / "bomb.pth")
    with pytest.raises(UnreadableWeightsError, match=r"bomb\.pth: .*such a file is refused"):
        read_weights(tmp_path / "bomb.pth")


def test_paths_as_python_3_13_saves_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There, and only there, the classes of paths say that they are of another module."""
    module = ModuleType("pathlib._local")
    module.PosixPath = type("PosixPath", (), {"__module__": module.__name__})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    torch.save({"args": module.PosixPath(), "state_dict": STATE}, tmp_path / "a.pth")
    expect_state(read_weights(tmp_path / "a.pth"))


def test_stand_ins_do_not_stay(tmp_path: Path) -> None:
    torch.save({**BESIDE, "state_dict": STATE}, tmp_path / "a.pth")
    before = set(torch.serialization.get_safe_globals())  # torch gives a set in any order
    read_weights(tmp_path / "a.pth")
    assert set(torch.serialization.get_safe_globals()) == before


def test_wrappers_without_end(tmp_path: Path) -> None:
    endless: dict[str, Any] = {}
    endless["model"] = endless
    torch.save(endless, tmp_path / "a.pth")
    with pytest.raises(UnreadableWeightsError, match="expected a state dict"):
        read_weights(tmp_path / "a.pth")


def test_a_teacher_of_self_distillation_fills_a_network(tmp_path: Path) -> None:
    network = NarrowResnet(width=4, blocks=(1, 1, 1, 1))
    state = {f"module.backbone.{k}": v + 1 for k, v in network.network.state_dict().items()}
    torch.save({"teacher": {**state, "module.head.weight": torch.ones(1)}, "args": BESIDE["args"]}, tmp_path / "d.pth")
    filled = NarrowResnet(width=4, blocks=(1, 1, 1, 1), weights=tmp_path / "d.pth")
    assert all(torch.equal(v, network.network.state_dict()[k] + 1) for k, v in filled.network.state_dict().items())
