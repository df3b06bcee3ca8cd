"""Opens model folders of both kinds: PyTorch models, and models exported by ``objemb export``."""

from __future__ import annotations

from pathlib import Path

from objemb import checks
from objemb.card import read_card
from objemb.models.base import EmbeddingModel
from objemb.models.exported import AUTO, is_available, open_exported
from objemb.models.hub import model_folder
from objemb.models.tuned import read_choice
from objemb.runtimes.exported import EXPORT


def open_model(
    path: str | Path,
    device: str = "cpu",
    precision: str | None = None,
    *,
    runtime: str | None = None,
    threads: int | None = None,
) -> EmbeddingModel:
    """Open a model folder. No code in it is executed, and nothing is downloaded except for a name ``hf:...``.

    Args:
        path: A folder written by ``objemb model build``, :meth:`Model.save` or ``objemb export``; or a model on the
            Hugging Face Hub, ``hf:ORG/NAME`` or ``hf:ORG/NAME@REVISION``, see :func:`objemb.models.hub.model_folder`.
        device: Device of a PyTorch model: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; ``auto`` for a GPU if there is one,
            else the CPU; ``gpu`` for a GPU or an error. See :func:`objemb.devices.find_device`. Exported models run on
            the CPU.
        precision: Precision of its networks: ``fp32``, ``bf16``, ``fp16``, or ``auto``, see
            :func:`objemb.devices.find_precision`. None for ``fp32``, or for the precision of an exported model. On a
            CPU and without a ``runtime``, ``auto`` is what ``objemb doctor --tune`` has recorded for this model, see
            :mod:`objemb.models.tuned`. Vectors are float32 in any case, and the fingerprint is the same.
        runtime: Runtime of an exported model: ``onnxruntime``, ``openvino`` or ``torch``; None for the first one that
            is installed and can read its graphs.
        threads: Number of threads of the networks; None to choose by the processor. In PyTorch it applies to the whole
            process.

    Raises:
        FileNotFoundError: The path is not a model folder.
        ObjembError: A model on the hub is not available, for instance without a network.
        ArtefactMismatchError: Files are damaged or do not belong together; the message has expected and found values.
        PluginError: The model needs plug-ins of packages that are not installed; the message names them.
        ImportError: The runtime is not installed; the message contains the command that installs it.
        ValueError: This machine does not have the device, or the model does not support the runtime or precision.
    """
    path = model_folder(path)
    card = read_card(path)
    choice = read_choice(card) if precision == AUTO and runtime is None else None
    if EXPORT in card:
        checks.one_of("device of an exported model", device, (AUTO, "cpu"))
        if choice is not None and choice.runtime is not None and is_available(choice.runtime):
            runtime, precision = choice.runtime, choice.precision
        return open_exported(path, runtime=runtime, precision=precision or AUTO, threads=threads)
    if runtime is not None:
        raise ValueError(f"runtime: expected a model written by 'objemb export', found a PyTorch model in {path}")

    from objemb.devices import find_device
    from objemb.models.build import load_model

    if choice is not None and find_device(device) == "cpu":
        precision = choice.precision
    model = load_model(path, device, precision or "fp32")
    if threads is not None:
        import torch

        torch.set_num_threads(checks.whole("threads", threads))
    return model
