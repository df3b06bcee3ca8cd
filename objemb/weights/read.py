"""State dicts in files of other programs: only tensors are read, and nothing in a file is executed."""

from __future__ import annotations

import contextlib
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from objemb import checks
from objemb.checks import MissingWeightsError, ObjembError

#: Keys under which training programs put the state dict into their checkpoints; of several the first one counts. The
#: averaged weights (EMA) are taken where there are no others; of self-distillation (DINO) the teacher is what is used.
WRAPPERS = (
    *("state_dict", "model_state_dict", "model", "net", "network", "teacher", "module", "weights", "params"),
    *("state_dict_ema", "ema_state_dict", "model_ema", "ema", "params_ema"),
)
#: Prefixes that parallel training and compilation leave on every key.
PREFIXES = ("module.", "_orig_mod.")
#: Other objects in checkpoints, such as a loss or the options of the run, which are skipped and not created.
ASIDE = re.compile(
    r"numpy\.(_?core\.multiarray\.(scalar|_reconstruct)|dtype|ndarray|dtypes\.\w+)|_codecs\.encode|argparse\.Namespace"
    r"|pathlib\.(_local\.)?\w+|datetime\.\w+|omegaconf\.[\w.]+|yacs\.config\.CfgNode|types\.SimpleNamespace"
)
#: Maximum number of other types of objects in a file.
MAX_KINDS = 64
#: First bytes of files that are not weights, with a description of such files and advice.
OTHERS = (
    (rb"version https://git-lfs", "a pointer of Git LFS, not the file: run 'git lfs pull' where it was cloned"),
    (
        rb"(\.\./)*(/annex/|\.git/annex)",
        "a pointer of git-annex, not the file: run 'git annex get' where it was cloned",
    ),
    (
        rb"\s*<(!doctype|html|\?xml|!--|head)",
        "a web page, not the file: download the file itself (on GitHub the 'raw' one, on Hugging Face 'resolve' in the "
        "place of 'blob' in the address)",
    ),
    (rb"\x1f\x8b|BZh\d|\xfd7zXZ|7z\xbc\xaf", "an archive: unpack it, and name the file that is in it"),
    (rb"\x89HDF", "an HDF5 file of Keras: convert it to safetensors first"),
    (rb"\s*[{\[]", "a text in JSON: if it is the index of weights in several files, join them to one first"),
)
SHOWN = 3
#: Maximum nesting of wrappers.
MAX_DEPTH = 3


class UnreadableWeightsError(ObjembError):
    """A file of weights cannot be read, or does not belong to the network. The message says what was found."""


def read_weights(file: str | Path) -> OrderedDict[str, Tensor]:
    """The state dict in a file of safetensors or ``torch.save``; the format is recognised by the contents, not the
    name.

    Checkpoints with the state dict under one of ``WRAPPERS`` are unwrapped, and prefixes of parallel training are
    removed. Other contents of a checkpoint, such as NumPy numbers or the options of the run, are ignored.

    Raises:
        MissingWeightsError: The file does not exist.
        UnreadableWeightsError: The file is damaged or of another format, contains objects that would have to be
            executed, or contains no state dict. The message gives advice if possible.
    """
    file = Path(file)
    if not file.is_file():
        raise MissingWeightsError(f"weights: expected a file, found none at {file}")
    with file.open("rb") as stream:
        start = stream.read(64)
    safe = _is_safetensors(start, file.stat().st_size)
    other = None if safe else next((text for first, text in OTHERS if re.match(first, start, re.IGNORECASE)), None)
    if other is not None or not start:
        raise UnreadableWeightsError(f"{file}: expected weights, found {other or 'an empty file'}")
    try:
        content: object = load_file(file) if safe else _load_torch(file)
    except UnreadableWeightsError:
        raise
    except Exception as error:  # a damaged file may cause any error in the readers
        reason = " ".join(str(error).split())[:300]
        raise UnreadableWeightsError(
            f"{file}: expected tensors saved by torch.save or safetensors, found damage "
            f"({type(error).__name__}: {reason})"
        ) from error
    return _state_dict(content, file)


class _Aside:
    """Replaces an object that is ignored."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def _is_safetensors(start: bytes, size: int) -> bool:
    """Whether a file starts like safetensors: with the length of a header and its opening brace."""
    return 8 + int.from_bytes(start[:8], "little") <= size and start[8:9] == b"{"


def _load_torch(file: Path) -> object:
    """Contents of a file of ``torch.save``, with ``_Aside`` instead of objects other than tensors."""
    if _is_script(file):
        raise UnreadableWeightsError(
            f"{file}: expected tensors, found a program of TorchScript, which would have to be run to be read; "
            "in a program that trusts it, save its tensors alone: torch.save(torch.jit.load(FILE).state_dict(), NEW)"
        )
    aside: list[Any] = []
    while True:
        try:
            # opened here, because with a path torch decides by its suffix
            with torch.serialization.safe_globals(aside), file.open("rb") as stream:
                return torch.load(stream, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:  # its message advises to execute the file, which users should not see
            said = re.search(r"GLOBAL ([\w.]+) was not an allowed global", str(error))
            name = said[1] if said else None
            if name is None or not ASIDE.fullmatch(name) or len(aside) >= MAX_KINDS:
                raise _refusal(file, name) from error
            aside.append((_Aside, name))


def _is_script(file: Path) -> bool:
    with contextlib.suppress(OSError, zipfile.BadZipFile, ValueError), zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
    return False


def _refusal(file: Path, name: str | None) -> UnreadableWeightsError:
    if name is None:
        return UnreadableWeightsError(
            f"{file}: expected tensors saved by torch.save or safetensors, "
            "found damage or objects that would have to be run to be read; such a file is refused"
        )
    return UnreadableWeightsError(
        f"{file}: expected tensors, found objects that would have to be run to be read ({name}), as where a whole "
        "network was saved; such a file is refused. In a program that trusts it, save its tensors alone: "
        "torch.save(network.state_dict(), NEW)"
    )


def _state_dict(content: object, file: Path) -> OrderedDict[str, Tensor]:
    for _ in range(MAX_DEPTH):
        if isinstance(content, Mapping) and not _all_tensors(content):
            content = next((content[w] for w in WRAPPERS if isinstance(content.get(w), Mapping)), content)
    if not isinstance(content, Mapping):
        raise UnreadableWeightsError(f"{file}: expected a state dict, found {type(content).__name__}")
    others = [k for k, v in content.items() if not (isinstance(k, str) and isinstance(v, Tensor))]
    if others or not content:
        raise UnreadableWeightsError(
            f"{file}: expected a state dict (names to tensors, possibly under {checks.listed(WRAPPERS)}), "
            f"found {first_of(others) if others else 'nothing in it'}"
        )
    state = OrderedDict(content)
    metadata = getattr(content, "_metadata", None)
    if isinstance(metadata, OrderedDict):  # versions of layers, which modules use to translate old names
        state._metadata = metadata  # type: ignore[attr-defined]  # as PyTorch does
    for prefix in PREFIXES:
        consume_prefix_in_state_dict_if_present(state, prefix)
    return state


def _all_tensors(content: Mapping[object, object]) -> bool:
    return bool(content) and all(isinstance(value, Tensor) for value in content.values())


def first_of(names: Collection[object]) -> str:
    """The first names, and how many more there are."""
    rest = len(names) - SHOWN
    return checks.listed(list(names)[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
