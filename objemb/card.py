"""A model folder as a place: the card that says what is in it, its checksums, and writing it at once.

What the files hold is the affair of others: tensors of :mod:`objemb.models.folder`, graphs of
:mod:`objemb.runtimes.exported`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from objemb import checks
from objemb.checks import ArtefactMismatchError, ObjembError
from objemb.disk import file_sha256, left_beside, replacing_folder

FORMAT = "objemb-model"
FORMAT_VERSION = 1
CARD = "model.json"


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


def write_folder(folder: Path, card: Mapping[str, object], write: Callable[[Path], None], *, force: bool) -> None:
    """Write a model folder beside its place, then rename it into place: it is there completely or not at all.

    Args:
        folder: The place.
        card: What the card says, but for format and checksums, which are added here.
        write: Writes all other files into the folder that it is given, and into no folder within; ``OSError`` where
            it cannot.
        force: Whether a model that is there may be replaced.

    Raises:
        FileExistsError: The folder exists and is not a model, or is one and ``force`` is false.
        ObjembError: It could not be written, for instance because the disk is full; a model that was there stays.
    """
    check_free(folder, force)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with replacing_folder(folder) as partial:
            write(partial)
            files = {
                file.name: {"bytes": file.stat().st_size, "sha256": file_sha256(file)}
                for file in sorted(partial.iterdir())
            }
            full = {"format": FORMAT, "format_version": FORMAT_VERSION, **card, "files": files}
            text = json.dumps(full, indent=2, ensure_ascii=False) + "\n"
            # the command may name a file whose name is not UTF-8; in JSON, what backslashreplace writes is an escape
            (partial / CARD).write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        left = "the model that was there is intact" if (folder / CARD).is_file() else "nothing is left of it"
        reason = error.strerror or str(error)
        raise ObjembError(f"{folder}: the model could not be written: {reason}; {left}") from error


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


def checked_file(folder: str | Path, card: Mapping[str, Any], name: str) -> Path:
    """A file of a model folder, after checking it against the checksum of the card.

    Raises:
        ArtefactMismatchError: It is missing or is not the one that was written; both checksums are named.
    """
    file = Path(folder) / name
    _expect_sha256(file, card, file_sha256(file) if file.is_file() else "no file")
    return file


def checked_content(folder: str | Path, card: Mapping[str, Any], name: str) -> bytes:
    """The content of such a file, read once.

    Raises:
        ArtefactMismatchError: As :func:`checked_file`.
    """
    file = Path(folder) / name
    content = file.read_bytes() if file.is_file() else None
    _expect_sha256(file, card, "no file" if content is None else hashlib.sha256(content).hexdigest())
    return content or b""


def _expect_sha256(file: Path, card: Mapping[str, Any], found: str) -> None:
    expected = card["files"].get(file.name, {}).get("sha256", "none in the card")
    if found != expected:
        raise ArtefactMismatchError(f"{file}: expected sha256 {expected}, found {found}")
