"""State dicts in files of other programs: tensors only, nothing in a file is ever run."""

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
#: What checkpoints hold beside the tensors, such as a loss or the options of the run: passed over, not made.
ASIDE = re.compile(
    r"numpy\.(_?core\.multiarray\.(scalar|_reconstruct)|dtype|ndarray|dtypes\.\w+)|_codecs\.encode|argparse\.Namespace"
    r"|pathlib\.(_local\.)?\w+|datetime\.\w+|omegaconf\.[\w.]+|yacs\.config\.CfgNode|types\.SimpleNamespace"
)
#: Kinds of objects that a file may hold beside tensors, before it is given up.
MOST_KINDS = 64
#: The first bytes of files that are not weights, what such files are, and what to do.
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
#: Wrappers within wrappers.
DEEPEST = 3


class UnreadableWeightsError(ObjembError):
    """A file of weights cannot be read, or does not belong to the network. The message says what was found."""


def read_weights(file: str | Path) -> OrderedDict[str, Tensor]:
    """The state dict in a file of safetensors or of ``torch.save``, which the content decides on, not the name.

    Checkpoints that keep it under one of ``WRAPPERS`` are unwrapped, and the prefixes of parallel training are removed.
    What else is in a checkpoint, such as NumPy numbers or the options of the run, is left aside.

    Raises:
        MissingWeightsError: There is no such file.
        UnreadableWeightsError: The file is damaged or something else, holds objects that would have to be run to be
            read, or holds no state dict. The message says what to do where something can be done.
    """
    file = Path(file)
    if not file.is_file():
        raise MissingWeightsError(f"weights: expected a file, found none at {file}")
    with file.open("rb") as stream:
        start = stream.read(64)
    safe = _is_safetensors(start, file.stat().st_size)
    found = None if safe else next((said for first, said in OTHERS if re.match(first, start, re.IGNORECASE)), None)
    if found is not None or not start:
        raise UnreadableWeightsError(f"{file}: expected weights, found {found or 'an empty file'}")
    try:
        content: object = load_file(file) if safe else _load_torch(file)
    except UnreadableWeightsError:
        raise
    except Exception as error:  # the readers raise whatever the bytes of a broken file lead to
        reason = " ".join(str(error).split())[:300]
        raise UnreadableWeightsError(
            f"{file}: expected tensors saved by torch.save or safetensors, found damage "
            f"({type(error).__name__}: {reason})"
        ) from error
    return _state_dict(content, file)


class _Aside:
    """Stands for an object that is ignored."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def _is_safetensors(start: bytes, size: int) -> bool:
    """Whether a file begins as safetensors do: the length of a header, and the brace that it begins with."""
    return 8 + int.from_bytes(start[:8], "little") <= size and start[8:9] == b"{"


def _load_torch(file: Path) -> object:
    """What ``torch.save`` wrote, with ``_Aside`` in the place of objects that checkpoints have beside the tensors."""
    if _is_script(file):
        raise UnreadableWeightsError(
            f"{file}: expected tensors, found a program of TorchScript, which would have to be run to be read; "
            "in a program that trusts it, save its tensors alone: torch.save(torch.jit.load(FILE).state_dict(), NEW)"
        )
    aside: list[Any] = []
    while True:
        try:
            # opened here, for by a path torch goes by its suffix
            with torch.serialization.safe_globals(aside), file.open("rb") as stream:
                return torch.load(stream, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:  # its text advises to run the file: not for a user's eyes
            said = re.search(r"GLOBAL ([\w.]+) was not an allowed global", str(error))
            name = said[1] if said else None
            if name is None or not ASIDE.fullmatch(name) or len(aside) >= MOST_KINDS:
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
    for _ in range(DEEPEST):
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
    if isinstance(metadata, OrderedDict):  # layer versions, by which modules translate old names
        state._metadata = metadata  # type: ignore[attr-defined]  # as PyTorch does
    for prefix in PREFIXES:
        consume_prefix_in_state_dict_if_present(state, prefix)
    return state


def _all_tensors(content: Mapping[object, object]) -> bool:
    return bool(content) and all(isinstance(value, Tensor) for value in content.values())


def first_of(names: Collection[object]) -> str:
    """The first names of many, and how many more there are."""
    rest = len(names) - SHOWN
    return checks.listed(list(names)[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
