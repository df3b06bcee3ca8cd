"""Opening a model folder of either kind: one of PyTorch, or one that ``objemb export`` made."""

from __future__ import annotations

from pathlib import Path

from objemb import checks
from objemb.card import read_card
from objemb.models.base import EmbeddingModel
from objemb.models.exported import AUTO, open_exported
from objemb.models.hub import model_folder
from objemb.runtimes.exported import EXPORT


def open_model(
    path: str | Path,
    device: str = "cpu",
    precision: str | None = None,
    *,
    runtime: str | None = None,
    threads: int | None = None,
) -> EmbeddingModel:
    """Open a model folder. Nothing in it is executed, and only a model named ``hf:...`` is fetched.

    Args:
        path: What ``objemb model build``, :meth:`Model.save` or ``objemb export`` made; or a model on the Hugging Face
            Hub, ``hf:ORG/NAME`` or ``hf:ORG/NAME@REVISION``, see :func:`objemb.models.hub.model_folder`.
        device: Where a model of PyTorch runs: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; ``auto`` for a GPU where there is
            one, else the CPU; ``gpu`` for a GPU or an error. See :func:`objemb.devices.find_device`. Exported models
            run on the CPU.
        precision: How its networks compute: ``fp32``, ``bf16``, ``fp16``, or ``auto``, see
            :func:`objemb.devices.find_precision`. None for ``fp32``, and of an exported model for that in which it was
            exported. Vectors are float32 in any case, and the fingerprint is the same.
        runtime: What runs an exported model: ``onnxruntime``, ``openvino`` or ``torch``; None for the first that is
            installed and reads its graphs.
        threads: Threads that networks compute with; None for as many as suit the processor. PyTorch has one number of
            them for the whole process.

    Raises:
        FileNotFoundError: No model folder.
        ObjembError: A model on the hub cannot be had, for instance without a network.
        ArtefactMismatchError: Files that are damaged, or do not belong together; expected and found are named.
        PluginError: It uses plug-ins of packages that are not installed; they are named.
        ImportError: What runs it is not installed; the message says what to install.
        ValueError: A device that this machine does not have, or a runtime or precision that the model does not.
    """
    path = model_folder(path)
    if EXPORT in read_card(path):
        checks.one_of("device of an exported model", device, (AUTO, "cpu"))
        return open_exported(path, runtime=runtime, precision=precision or AUTO, threads=threads)
    if runtime is not None:
        raise ValueError(f"runtime: expected a model that 'objemb export' made, found one of PyTorch in {path}")

    from objemb.models.build import load_model

    model = load_model(path, device, precision or "fp32")
    if threads is not None:
        import torch

        torch.set_num_threads(checks.whole("threads", threads))
    return model
