"""The device that a network runs on, and the precision in which it computes there."""

from __future__ import annotations

import torch

from objemb import checks

AUTO = "auto"
#: Stands for any GPU that PyTorch can use on this machine.
GPU = "gpu"
PRECISIONS = (AUTO, "fp32", "bf16", "fp16")
#: The type for autocast; None for no autocast, that is, the type of the weights, float32.
DTYPES: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def find_device(name: str) -> str:
    """PyTorch's name of the device that a setting stands for.

    Args:
        name: ``auto`` is an NVIDIA or AMD GPU if PyTorch can use one, else the CPU; never an Apple GPU (``mps``), for
            which PyTorch lacks some operations of detectors. ``gpu`` is an NVIDIA, AMD or Apple GPU, but never the CPU.
            Other names are devices of PyTorch: ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Raises:
        ValueError: This machine has no such device.
    """
    if name == AUTO:
        return "cuda" if torch.cuda.is_available() and _why_not("cuda") is None else "cpu"
    if name == GPU:
        for device in ("cuda", "mps"):
            if _why_not(device) is None:
                return device
        raise ValueError(f"device: expected a GPU that PyTorch can use, found none ({_why_not('cuda')})")
    if reason := _why_not(name):
        raise ValueError(
            f"device: expected auto, cpu, or an accelerator of this machine such as cuda, found {name!r} ({reason})"
        )
    return name


def find_precision(name: str, device: str) -> str:
    """``fp32``, ``bf16`` or ``fp16``: the precision that ``name``, one of :data:`PRECISIONS`, stands for on a device.

    ``auto`` is ``bf16`` on a GPU that supports it natively, and ``fp32`` on all other devices.
    """
    checks.one_of("precision", name, PRECISIONS)
    if name != AUTO:
        return name
    kind = device.partition(":")[0]
    return "bf16" if kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def _why_not(device: str) -> str | None:
    """The reason why no tensor can be created on a device; None if one can."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:  # torch may be built without it
        reason = str(error).partition("\n")[0].partition(". ")[0]
        return "no such device" if reason.startswith("Expected one of") else reason
    return None
