"""The setting ``weights``: the name of published weights, a file, a model folder, or random values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TypeGuard

from objemb import checks
from objemb.checks import MissingWeightsError
from objemb.weights.download import fetch

#: The file in a model folder with the tensors of its networks.
MODEL_WEIGHTS = "weights.safetensors"
#: The value of ``weights`` for random weights.
RANDOM = "random"


def is_named(weights: str | Path | None) -> TypeGuard[str | Path]:
    """Whether ``weights`` names a file or published weights; False for ``random`` and None.

    Raises:
        ValueError: It is none of these, such as ``true`` or an empty string.
    """
    if weights is None or weights == RANDOM:
        return False
    if not isinstance(weights, (str, Path)) or not str(weights).strip():
        raise ValueError(f"weights: expected a name, a file, a model folder or {RANDOM}, found {weights!r}")
    return True


def locate(weights: str | Path, named: Mapping[str, str]) -> Path:
    """The file of ``weights``, a key of ``named`` (URLs by the names of published weights) or a path.

    Raises as :func:`fetch` and :func:`existing_file` do.
    """
    url = named.get(str(weights))
    return fetch(url) if url is not None else existing_file(weights, named)


def existing_file(weights: str | Path, named: Collection[str]) -> Path:
    """``weights`` as the path of a file.

    Args:
        weights: The path of a file, or of a model folder, which gives its file of weights; :func:`of_module` selects
            the tensors of a part.
        named: Names that are also possible, for the error.

    Raises:
        MissingWeightsError: It is a path, but the file does not exist.
        ValueError: It does not look like a path, and is probably a misspelt name.
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
