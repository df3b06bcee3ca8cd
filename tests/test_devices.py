from __future__ import annotations

import pytest
import torch

from objemb.devices import find_device, find_precision


def with_accelerators(monkeypatch: pytest.MonkeyPatch, *working: str, bf16: bool = True) -> None:
    """A machine on which tensors can be put on these devices only; a GPU may be there and not work."""
    empty = torch.empty

    def on_this_machine(*size: int, device: str) -> torch.Tensor:
        if device.partition(":")[0] not in ("cpu", *working):
            raise RuntimeError(f"no kernel image for {device}. Compile it")
        return empty(*size)

    monkeypatch.setattr(torch, "empty", on_this_machine)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)


@pytest.mark.parametrize(
    ("working", "auto", "gpu"), [((), "cpu", None), (("cuda",), "cuda", "cuda"), (("mps",), "cpu", "mps")]
)
def test_auto_and_gpu(monkeypatch: pytest.MonkeyPatch, working: tuple[str, ...], auto: str, gpu: str | None) -> None:
    with_accelerators(monkeypatch, *working)
    assert find_device("auto") == auto
    assert find_device("cpu") == "cpu"
    if gpu is None:
        with pytest.raises(ValueError, match=r"expected a GPU that PyTorch can use, found none \(no kernel image"):
            find_device("gpu")
    else:
        assert find_device("gpu") == gpu


@pytest.mark.parametrize("name", ["cuda:7", "tpu9000", "", "hpu"])
def test_a_device_that_is_not_there(name: str) -> None:
    with pytest.raises(ValueError, match=f"device: expected auto, cpu, or .*, found '{name}'"):
        find_device(name)


@pytest.mark.parametrize(
    ("name", "device", "bf16", "found"),
    [
        ("auto", "cpu", True, "fp32"),
        ("auto", "mps", True, "fp32"),
        ("auto", "cuda", True, "bf16"),
        ("auto", "cuda:1", True, "bf16"),
        ("auto", "cuda", False, "fp32"),
        ("fp16", "cuda", False, "fp16"),
        ("bf16", "cpu", False, "bf16"),
    ],
)
def test_precision(monkeypatch: pytest.MonkeyPatch, name: str, device: str, bf16: bool, found: str) -> None:
    with_accelerators(monkeypatch, "cuda", bf16=bf16)
    assert find_precision(name, device) == found


def test_an_unknown_precision() -> None:
    with pytest.raises(ValueError, match="precision: expected one of 'auto', 'fp32', 'bf16', 'fp16', found 'half'"):
        find_precision("half", "cpu")
