"""Model folders: the card with settings and checksums, and writing a folder atomically.

The content of the other files is defined elsewhere: tensors in :mod:`objemb.models.folder`, graphs in
:mod:`objemb.runtimes.exported`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NotRequired, TypedDict

from objemb import checks
from objemb.checks import ArtefactMismatchError, ObjembError
from objemb.disk import file_sha256, left_beside, replacing_folder
from objemb.types import Settings

FORMAT = "objemb-model"
FORMAT_VERSION = 1
CARD = "model.json"


class FileFacts(TypedDict):
    """Size and SHA-256 of a file of the folder."""

    bytes: int
    sha256: str


class FittedFacts(TypedDict):
    """What a part was fitted on, and the number of vectors."""

    fitted_on: str
    count: int


class WhiteningFacts(FittedFacts):
    """The constructor arguments of a whitening."""

    input_dim: int
    dim: int
    power: float


class WeightsOrigin(TypedDict, total=False):
    """Origin of the weights of a network: a name with the checksum of a file or the fingerprint of a model folder, in
    which the networks ``random`` had random weights; or ``random`` with a seed."""

    name: str
    seed: int
    sha256: str
    fingerprint: str
    random: list[str]


class PluginOrigin(TypedDict):
    """A plug-in of another package."""

    kind: str
    name: str
    package: str
    version: str


class TrainingFacts(TypedDict, total=False):
    """The training of a model: name of the task, keys of the trained parts, settings of the data and of the run."""

    task: str
    learned: list[str]
    data: object
    run: dict[str, object]
    examples: int


class Provenance(TypedDict, total=False):
    """Origin of a model; ``weights`` and ``plugins`` by dotted key, ``teacher`` is a fingerprint."""

    created: str
    command: list[str]
    weights: dict[str, WeightsOrigin]
    plugins: dict[str, PluginOrigin]
    training: TrainingFacts
    teacher: str
    versions: dict[str, str]
    machine: dict[str, object]


class ModelCard(TypedDict):
    """A card as :func:`read_card` returns it; ``export`` is read by :class:`objemb.runtimes.exported.Exported`."""

    settings: Settings
    fingerprint: str
    files: dict[str, FileFacts]
    dim: NotRequired[int]
    preprocessing: NotRequired[dict[str, object]]
    whitening: NotRequired[WhiteningFacts | None]
    fitted: NotRequired[dict[str, FittedFacts]]
    provenance: NotRequired[Provenance]
    export: NotRequired[Settings]


def check_free(folder: Path, force: bool) -> None:
    """Raise ``FileExistsError`` if :func:`write_folder` would: the path is not a model, or must not be replaced."""
    if not folder.exists():
        return
    if folder.samefile(Path()):  # the current folder must not be renamed
        raise FileExistsError(f"{folder}: expected a new folder or a model, found the current folder")
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / CARD).is_file()):
        raise FileExistsError(f"{folder}: expected a new folder or a model, found other files; nothing was changed")
    if not force and (folder / CARD).is_file():
        raise FileExistsError(
            f"{folder}: expected a new folder, found a model; pass --force (force=True) to replace it"
        )


def write_folder(folder: Path, card: Mapping[str, object], write: Callable[[Path], None], *, force: bool) -> None:
    """Write a model folder atomically: to a temporary folder, which is then renamed.

    Args:
        folder: Path of the folder.
        card: Content of the card, without format and checksums, which are added here.
        write: Writes all other files into the folder that it is passed, without subfolders; raises ``OSError`` if it
            fails.
        force: Whether an existing model may be replaced.

    Raises:
        FileExistsError: The folder exists and is not a model, or is one and ``force`` is false.
        ObjembError: It could not be written, for instance because the disk is full; an existing model is kept.
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
            # the command may contain a file name that is not UTF-8; backslashreplace makes a valid JSON escape of it
            (partial / CARD).write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        left = "the existing model is intact" if (folder / CARD).is_file() else "no files are left of it"
        reason = error.strerror or str(error)
        raise ObjembError(f"{folder}: the model could not be written: {reason}; {left}") from error


def read_card(folder: str | Path) -> ModelCard:
    """The card of a model folder: its settings and facts, without tensors.

    Raises:
        FileNotFoundError: The folder does not exist or is not a model.
        ArtefactMismatchError: The card is damaged, or its format is newer than this version.
    """
    file = Path(folder) / CARD
    if not file.is_file():
        left = [str(p) for p in left_beside(Path(folder)) if (p / CARD).is_file()] if not Path(folder).exists() else []
        hint = f"; its replacement was interrupted, which left {checks.listed(left)}: rename one" if left else ""
        raise FileNotFoundError(
            f"model: expected a folder made by 'objemb model build' (with {CARD}), found {folder}{hint}"
        )
    try:
        card: ModelCard = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ArtefactMismatchError(f"{file}: expected JSON, found damage ({error})") from error
    if not isinstance(card, dict) or card.get("format") != FORMAT or card.get("format_version") != FORMAT_VERSION:
        found = (card.get("format"), card.get("format_version")) if isinstance(card, dict) else type(card).__name__
        raise ArtefactMismatchError(f"{file}: expected format {(FORMAT, FORMAT_VERSION)}, found {found}")
    wrong = _of_wrong_type(card)
    if wrong:
        raise ArtefactMismatchError(
            f"{file}: expected a card of a model, found {checks.listed(wrong)} missing or invalid"
        )
    return card


def _of_wrong_type(card: Mapping[str, object]) -> list[str]:
    """Keys of a card whose values have a wrong type; the card may be from an untrusted source."""
    kinds = {"settings": dict, "fingerprint": str, "files": dict, "provenance": dict, "fitted": dict}
    full = {"provenance": {}, "fitted": {}, **card}
    wrong = [key for key, kind in kinds.items() if not isinstance(full.get(key), kind)]
    said = full["provenance"]
    if wrong or not isinstance(said, dict):
        return wrong
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


def checked_file(folder: str | Path, card: ModelCard, name: str) -> Path:
    """A file of a model folder, after verifying the checksum in the card.

    Raises:
        ArtefactMismatchError: The file is missing or was changed; the message has both checksums.
    """
    file = Path(folder) / name
    _expect_sha256(file, card, file_sha256(file) if file.is_file() else "no file")
    return file


def checked_content(folder: str | Path, card: ModelCard, name: str) -> bytes:
    """The content of such a file, read once.

    Raises:
        ArtefactMismatchError: As :func:`checked_file`.
    """
    file = Path(folder) / name
    content = file.read_bytes() if file.is_file() else None
    _expect_sha256(file, card, "no file" if content is None else hashlib.sha256(content).hexdigest())
    return content or b""


def _expect_sha256(file: Path, card: ModelCard, found: str) -> None:
    recorded = card["files"].get(file.name)
    expected = "none in the card" if recorded is None else recorded.get("sha256", "none in the card")
    if found != expected:
        raise ArtefactMismatchError(f"{file}: expected sha256 {expected}, found {found}")
