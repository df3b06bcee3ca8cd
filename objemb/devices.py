"""Which processor a network runs on, and how precisely it computes there."""

from __future__ import annotations

import torch

from objemb import checks

AUTO = "auto"
#: What is called any accelerator of this machine.
GPU = "gpu"
PRECISIONS = (AUTO, "fp32", "bf16", "fp16")
#: None: as the weights are, in single precision.
DTYPES: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def find_device(name: str) -> str:
    """The device that a name stands for, as PyTorch calls it.

    Args:
        name: ``auto``: an NVIDIA or AMD GPU that PyTorch can use, else the CPU. An Apple GPU (``mps``) is not taken by
            itself, since PyTorch lacks some operations of detectors there. ``gpu``: the same, or ``mps``, but never the
            CPU. Everything else is a device of PyTorch: ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Raises:
        ValueError: A device that this machine does not have.
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
    """``fp32``, ``bf16`` or ``fp16``: what ``name`` (one of :data:`PRECISIONS`) stands for on a device.

    ``auto`` is ``bf16`` on a GPU that computes it natively, else ``fp32``; on a CPU always ``fp32``.
    """
    checks.one_of("precision", name, PRECISIONS)
    if name != AUTO:
        return name
    kind = device.partition(":")[0]
    return "bf16" if kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def _why_not(device: str) -> str | None:
    """Why nothing can be put on a device; None where that works."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:  # torch may be built without it
        reason = str(error).partition("\n")[0].partition(". ")[0]
        return "no such device" if reason.startswith("Expected one of") else reason
    return None
