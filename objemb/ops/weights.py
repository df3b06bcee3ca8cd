"""Weights of networks: from a file, or by the name under which a library publishes them.

A named file is looked for in the cache of torch hub (``torch.hub.get_dir()/checkpoints``) and downloaded into it only
when it is not there. Without network that ends within seconds in an error that says which file to place where. Files
are read as tensors only: nothing in them is ever run.
"""

from __future__ import annotations

import hashlib
import logging
import os
import queue
import re
import threading
import time
import uuid
from collections.abc import Collection, Mapping
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import torch
from torch import Tensor, nn

from objemb import checks
from objemb.checks import MissingWeightsError
from objemb.ops.weight_files import SHOWN, UnreadableWeightsError, first_of

#: A server has to answer within this time, name resolution, proxy and redirections included.
ANSWER_SECONDS = 8.0
#: A connection, or a download that has begun, may stand still for this long.
STALL_SECONDS = 5.0
CHUNK = 1 << 20
MEGABYTE = 1e6
#: So often it is told how far a download is.
TELL_SECONDS = 10.0
#: The file in a model folder that holds the tensors of its networks.
MODEL_WEIGHTS = "weights.safetensors"
#: Says that a network shall have random values, where a file or published weights could be named.
RANDOM = "random"

logger = logging.getLogger(__name__)


def is_named(weights: str | Path | None) -> TypeGuard[str | Path]:
    """Whether a file or published weights are named; not so for ``random``, and for None, which is the same here.

    Raises:
        ValueError: It is neither, such as ``true`` or an empty text.
    """
    if weights is None or weights == RANDOM:
        return False
    if not isinstance(weights, (str, Path)) or not str(weights).strip():
        raise ValueError(f"weights: expected a name, a file, a model folder or {RANDOM}, found {weights!r}")
    return True


def locate(weights: str | Path, named: Mapping[str, str]) -> Path:
    """The file that ``weights`` stands for: a key of ``named`` (names of published weights to their URLs), or a path.

    Raises as :func:`fetch` and :func:`existing_file` do.
    """
    url = named.get(str(weights))
    return fetch(url) if url is not None else existing_file(weights, named)


def existing_file(weights: str | Path, named: Collection[str]) -> Path:
    """``weights`` as the path of a file.

    Args:
        weights: The path of a file, or of a model folder, which stands for its file of weights; :func:`of_module` finds
            the part of it that is wanted.
        named: Names that could have stood in its place, for the error.

    Raises:
        MissingWeightsError: It is a path, but there is no such file.
        ValueError: It does not even look like a path: most likely a misspelt name.
    """
    file = Path(weights).expanduser()
    if (file / MODEL_WEIGHTS).is_file():
        return file / MODEL_WEIGHTS
    if file.is_file():
        return file
    expected = "expected a file or a model folder" + (f", or one of {checks.listed(named)}" if named else "")
    if isinstance(weights, Path) or file.suffix or len(file.parts) > 1:
        raise MissingWeightsError(f"weights: {expected}, found no file {file}")
    raise ValueError(f"weights: {expected}, found {weights!r}{checks.nearest(weights, [*named, RANDOM])}")


def fetch(url: str, name: str | None = None) -> Path:
    """A published file: from the cache of torch hub, or downloaded into it, all of it or nothing.

    Args:
        url: Where it is published.
        name: What it is called in the cache; the last part of the URL by default. A hash in it, as in
            ``resnet50-0676ba61.pth``, is the beginning of the SHA-256 of the file and is checked.

    Raises:
        MissingWeightsError: It is not in the cache and could not be downloaded. Comes within seconds when there is no
            network, and names the URL, the place and the reason.
    """
    file = Path(torch.hub.get_dir(), "checkpoints", name or PurePosixPath(urlsplit(url).path).name)
    if file.is_file():
        return file
    try:
        _download(url, file)
    except (OSError, HTTPException, ValueError) as error:
        raise MissingWeightsError(
            f"weights: {file.name} is not on this machine and could not be downloaded "
            f"({type(error).__name__}: {error}). Get {url} on a machine with network and place it at {file}, "
            f"or put it anywhere and pass its path as weights"
        ) from error
    return file


def of_module(module: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> Mapping[str, Tensor]:
    """The tensors of a part, where ``state`` is that of a larger module, such as a whole model: names without prefix.

    Args:
        module: The part.
        state: Tensors by name; of the part itself, it is returned as it is, as when no part of it fits.
        source: What to call it in errors.

    Raises:
        UnreadableWeightsError: Several parts fit; their prefixes are named.
    """
    names = [k for k in module.state_dict() if not k.endswith("num_batches_tracked")]
    if not names or any(k in state for k in names):
        return state
    ends = (k.removesuffix(names[0]) for k in state if k.endswith(f".{names[0]}"))
    fitting = [prefix for prefix in ends if all(prefix + k in state for k in names)]
    if len(fitting) > 1:
        raise UnreadableWeightsError(
            f"{source}: expected tensors of one network that fit, found them under {first_of(fitting)}"
        )
    return {k.removeprefix(p): v for p in fitting for k, v in state.items() if k.startswith(p)} or state


def fill(module: nn.Module, state: Mapping[str, Tensor], source: str | Path, known: Collection[str] = ()) -> None:
    """Put a state dict into a network, strictly: every parameter and buffer must be in it, with the right shape.

    Parts that the network lacks altogether (a classifier above a feature extractor) may be in ``state`` and are
    ignored; keys *inside* its parts that neither it nor ``known`` has are an error: they mean another architecture.

    Args:
        module: The network.
        state: Tensors by name; ``num_batches_tracked`` may be missing.
        source: What to call it in errors.
        known: More names that may be there: those of the whole network, where ``module`` is a part of it.

    Raises:
        UnreadableWeightsError: Names, shapes or values do not fit; the network is then partly filled.
    """
    try:
        outcome = module.load_state_dict(state, strict=False)
    except Exception as error:  # wrong shapes, and whatever a hostile file leads to
        reason = "; ".join(line.strip() for line in str(error).splitlines()[1 : 1 + SHOWN]) or str(error)
        raise UnreadableWeightsError(f"{source}: the weights do not fit the network: {reason}") from error
    missing = [k for k in outcome.missing_keys if not k.endswith("num_batches_tracked")]
    parts = {k.split(".")[0] for k in module.state_dict()}
    foreign = [k for k in outcome.unexpected_keys if k not in known and k.split(".")[0] in parts]
    if missing:
        raise UnreadableWeightsError(
            f"{source}: {len(missing)} tensors of the network are missing: "
            f"expected {first_of(missing)}, found {first_of(state)}"
        )
    if foreign:
        raise UnreadableWeightsError(
            f"{source}: {len(foreign)} tensors belong to another architecture: found {first_of(foreign)}"
        )
    broken = [k for k, v in module.state_dict().items() if v.is_floating_point() and not bool(v.isfinite().all())]
    if broken:
        raise UnreadableWeightsError(
            f"{source}: expected finite values, found NaN or infinite ones in {first_of(broken)}"
        )


def _download(url: str, file: Path) -> None:
    expected = re.search(r"-([0-9a-f]{8,})\.", file.name)
    digest = hashlib.sha256()
    with _open(url) as answer:
        announced = answer.headers.get("Content-Length")
        size = "" if announced is None else f", {int(announced) / MEGABYTE:.1f} MB"
        logger.info("downloading %s to %s%s", url, file, size)
        told = time.monotonic()
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f"{file.name}.{uuid.uuid4().hex}.partial")
        try:
            with partial.open("wb") as out:
                while chunk := answer.read(CHUNK):
                    out.write(chunk)
                    digest.update(chunk)
                    if time.monotonic() - told >= TELL_SECONDS:
                        logger.info("downloading %s: %.1f MB so far", file.name, out.tell() / MEGABYTE)
                        told = time.monotonic()
                found = out.tell()
            if announced is not None and found != int(announced):
                raise OSError(f"expected {announced} bytes, found {found}")
            if expected and not digest.hexdigest().startswith(expected[1]):
                raise OSError(f"expected a SHA-256 that begins with {expected[1]}, found {digest.hexdigest()}")
            os.replace(partial, file)
        finally:
            partial.unlink(missing_ok=True)


def _open(url: str) -> Any:
    """The answer to a request, or the error, in bounded time: name resolution knows no timeout, hence the thread."""
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(urlopen(Request(url, headers={"User-Agent": "objemb"}), timeout=STALL_SECONDS))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=ANSWER_SECONDS)
    except queue.Empty:
        raise TimeoutError(f"no answer within {ANSWER_SECONDS:g} seconds") from None
    if isinstance(answer, Exception):
        raise answer
    return answer
