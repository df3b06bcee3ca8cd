"""A model folder on disk: what is in it, how it is written at once, and how damage is noticed.

::

    DIR/model.json               settings, preprocessing, what was fitted on what, fingerprint, checksums, provenance
    DIR/weights.safetensors      tensors of the networks, and what their parts have learned, such as codebooks
    DIR/whitening.safetensors    tensors of the whitening, if there is one

There is no pickle in it, and nothing in it refers to a file outside. Other files, such as the report of a training, may
lie there: they are not looked at, and go when the model is replaced.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from objemb import checks
from objemb.checks import ArtefactMismatchError, ObjembError
from objemb.disk import file_sha256, left_beside, replacing_folder
from objemb.weights.locate import MODEL_WEIGHTS

FORMAT = "objemb-model"
FORMAT_VERSION = 1
CARD = "model.json"
#: Tensors by file: ``weights`` are the networks, ``whitening`` is fitted.
TENSOR_FILES = {"weights": MODEL_WEIGHTS, "whitening": "whitening.safetensors"}


def fingerprint(settings: Mapping[str, object], tensors: Mapping[str, Mapping[str, Tensor]]) -> str:
    """SHA-256, as hex, of everything that a vector depends on: settings and tensors.

    Two models with the same fingerprint give vectors that may be compared. Where weights came from, when and by which
    version does not count.

    Args:
        settings: Resolved settings without the origin of weights.
        tensors: Group (a key of ``TENSOR_FILES``) to name to tensor.
    """
    digest = hashlib.sha256(
        json.dumps(settings, sort_keys=True, ensure_ascii=False).encode("utf-8", "backslashreplace")
    )
    for group in sorted(tensors):
        for name, tensor in sorted(tensors[group].items()):
            digest.update(f"\n{group}/{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_free(folder: Path, force: bool) -> None:
    """Raise ``FileExistsError`` where :func:`write_folder` would: what is there is no model, or may not be replaced."""
    if not folder.exists():
        return
    if folder.samefile(Path()):  # it is renamed away, and whoever stands in it would see nothing
        raise FileExistsError(f"{folder}: expected a new folder or a model, found the current folder")
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / CARD).is_file()):
        raise FileExistsError(f"{folder}: expected a new folder or a model, found something else; it is left alone")
    if not force and (folder / CARD).is_file():
        raise FileExistsError(
            f"{folder}: expected a new folder, found a model; pass --force (force=True) to replace it"
        )


def write_folder(
    folder: Path, card: Mapping[str, object], tensors: Mapping[str, Mapping[str, Tensor]], *, force: bool
) -> None:
    """Write a model folder beside its place, then rename it into place: it is there completely or not at all.

    Raises:
        FileExistsError: The folder exists and is not a model, or is one and ``force`` is false.
        ObjembError: It could not be written, for instance because the disk is full; a model that was there stays.
    """
    check_free(folder, force)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with replacing_folder(folder) as partial:
            files = {}
            for group, named in tensors.items():
                if named:
                    file = partial / TENSOR_FILES[group]
                    save_file({k: v.detach().cpu().contiguous().clone() for k, v in named.items()}, file)
                    files[file.name] = {"bytes": file.stat().st_size, "sha256": file_sha256(file)}
            full = {"format": FORMAT, "format_version": FORMAT_VERSION, **card, "files": files}
            text = json.dumps(full, indent=2, ensure_ascii=False) + "\n"
            # the command may name a file whose name is not UTF-8; in JSON, what backslashreplace writes is an escape
            (partial / CARD).write_text(text, encoding="utf-8", errors="backslashreplace")
    except (OSError, SafetensorError) as error:
        left = "the model that was there is intact" if (folder / CARD).is_file() else "nothing is left of it"
        raise ObjembError(f"{folder}: the model could not be written: {_reason(error)}; {left}") from error


def read_card(folder: str | Path) -> dict[str, Any]:
    """The settings and facts of a model folder, without its tensors.

    Raises:
        FileNotFoundError: There is no such folder, or it is not a model.
        ArtefactMismatchError: The card is damaged, or of a format newer than this version.
    """
    file = Path(folder) / CARD
    if not file.is_file():
        left = [str(p) for p in left_beside(Path(folder)) if (p / CARD).is_file()] if not Path(folder).exists() else []
        hint = f"; a replacement of it was cut off, what is left is {checks.listed(left)}: rename one" if left else ""
        raise FileNotFoundError(
            f"model: expected a folder made by 'objemb model build' (with {CARD}), found {folder}{hint}"
        )
    try:
        card = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ArtefactMismatchError(f"{file}: expected JSON, found damage ({error})") from error
    if not isinstance(card, dict) or card.get("format") != FORMAT or card.get("format_version") != FORMAT_VERSION:
        found = (card.get("format"), card.get("format_version")) if isinstance(card, dict) else type(card).__name__
        raise ArtefactMismatchError(f"{file}: expected format {(FORMAT, FORMAT_VERSION)}, found {found}")
    wrong = _of_wrong_type(card)
    if wrong:
        raise ArtefactMismatchError(f"{file}: expected a card of a model, found {checks.listed(wrong)} missing or odd")
    return card


def _of_wrong_type(card: Mapping[str, Any]) -> list[str]:
    """Keys of a card, which a stranger may have written, that are not what every reader takes them for."""
    kinds = {"settings": dict, "fingerprint": str, "files": dict, "provenance": dict, "fitted": dict}
    full = {"provenance": {}, "fitted": {}, **card}
    wrong = [key for key, kind in kinds.items() if not isinstance(full.get(key), kind)]
    if wrong:
        return wrong
    said = full["provenance"]
    inner = {
        "files": full["files"],
        "fitted": full["fitted"],
        "provenance.weights": said.get("weights") or {},
        "provenance.plugins": said.get("plugins") or {},
    }
    wrong = [k for k, v in inner.items() if not isinstance(v, dict) or not all(isinstance(x, dict) for x in v.values())]
    training = said.get("training") or {}
    learned = training.get("learned", []) if isinstance(training, dict) else None
    fits = isinstance(learned, list) and all(isinstance(x, str) for x in learned)
    return wrong if fits else [*wrong, "provenance.training"]


def read_tensors(folder: str | Path, card: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
    """The tensors of a model folder by group, after checking the files against the checksums of the card.

    Raises:
        ArtefactMismatchError: A file is missing or is not the one that was written; both checksums are named.
    """
    tensors: dict[str, dict[str, Tensor]] = {group: {} for group in TENSOR_FILES}
    for group, name in TENSOR_FILES.items():
        if name not in card["files"]:
            continue
        file = Path(folder) / name
        expected = card["files"][name].get("sha256")
        found = file_sha256(file) if file.is_file() else "no file"
        if found != expected:
            raise ArtefactMismatchError(f"{file}: expected sha256 {expected}, found {found}")
        try:
            tensors[group] = load_file(file)
        except SafetensorError as error:
            raise ArtefactMismatchError(f"{file}: expected safetensors, found damage ({error})") from error
    return tensors


def _reason(error: Exception) -> str:
    """What the system said; safetensors has it in its text alone."""
    said = re.search(r"\(os error (\d+)\)", str(error))
    if said is not None:
        return os.strerror(int(said[1]))
    return getattr(error, "strerror", None) or str(error)
