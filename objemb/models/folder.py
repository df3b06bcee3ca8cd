"""The tensors of a model folder on disk, and the fingerprint.

::

    DIR/model.json               settings, preprocessing, data of fitted parts, fingerprint, checksums, provenance
    DIR/weights.safetensors      tensors of the networks and of fitted parts, such as codebooks
    DIR/whitening.safetensors    tensors of the whitening, if there is one

It contains no pickle and no reference to a file outside. It may contain other files, such as the report of a training:
they are not read, and are removed when the model is replaced.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from objemb import card as card_folder
from objemb.checks import ArtefactMismatchError
from objemb.weights.locate import MODEL_WEIGHTS

#: File of each group of tensors: ``weights`` for the networks, ``whitening`` for the fitted whitening.
TENSOR_FILES = {"weights": MODEL_WEIGHTS, "whitening": "whitening.safetensors"}


def fingerprint(settings: Mapping[str, object], tensors: Mapping[str, Mapping[str, Tensor]]) -> str:
    """Hexadecimal SHA-256 of everything that a vector depends on: settings and tensors.

    The vectors of two models with the same fingerprint are comparable. The fingerprint does not depend on the origin
    of weights, on the time, or on versions.

    Args:
        settings: Resolved settings without the origin of weights.
        tensors: Tensors by group (a key of ``TENSOR_FILES``) and name.
    """
    digest = hashlib.sha256(
        json.dumps(settings, sort_keys=True, ensure_ascii=False).encode("utf-8", "backslashreplace")
    )
    for group in sorted(tensors):
        for name, tensor in sorted(tensors[group].items()):
            digest.update(f"\n{group}/{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_folder(
    folder: Path, card: Mapping[str, object], tensors: Mapping[str, Mapping[str, Tensor]], *, force: bool
) -> None:
    """Write a model folder with its tensors, see :func:`objemb.card.write_folder`."""

    def write(partial: Path) -> None:
        for group, named in tensors.items():
            if named:
                try:
                    save_file(
                        {k: v.detach().cpu().contiguous().clone() for k, v in named.items()},
                        partial / TENSOR_FILES[group],
                    )
                except SafetensorError as error:
                    raise OSError(_reason(error)) from error

    card_folder.write_folder(folder, card, write, force=force)


def read_tensors(folder: str | Path, card: card_folder.ModelCard) -> dict[str, dict[str, Tensor]]:
    """The tensors of a model folder by group, after verifying the checksums in the card.

    Raises:
        ArtefactMismatchError: A file is missing or has another checksum; the message has both checksums.
    """
    tensors: dict[str, dict[str, Tensor]] = {group: {} for group in TENSOR_FILES}
    for group, name in TENSOR_FILES.items():
        if name not in card["files"]:
            continue
        file = card_folder.checked_file(folder, card, name)
        try:
            tensors[group] = load_file(file)
        except SafetensorError as error:
            raise ArtefactMismatchError(f"{file}: expected safetensors, found damage ({error})") from error
    return tensors


def _reason(error: SafetensorError) -> str:
    """The error of the operating system, which safetensors has only in its text."""
    said = re.search(r"\(os error (\d+)\)", str(error))
    return str(error) if said is None else os.strerror(int(said[1]))
