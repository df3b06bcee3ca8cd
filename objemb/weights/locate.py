"""What ``weights`` in settings stands for: a published name, a file, a model folder, or random values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TypeGuard

from objemb import checks
from objemb.checks import MissingWeightsError
from objemb.weights.download import fetch

#: The file in a model folder that holds the tensors of its networks.
MODEL_WEIGHTS = "weights.safetensors"
#: The value of ``weights`` that asks for random ones, in place of a file or of published weights.
RANDOM = "random"


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
