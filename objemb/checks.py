"""Checks of arguments, whose errors name the expected and the found value, and the errors of objemb's own.

Every check raises ``ValueError`` (wrong value or shape) or ``TypeError`` (wrong type) and returns the checked value,
so that a constructor reads ``self.dim = checks.positive("dim", dim)``.
"""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
#: An integer or a float.
N = TypeVar("N", bound=float)
#: An array of NumPy or a tensor of PyTorch, which is not imported here.
A = TypeVar("A", bound=Any)


class ObjembError(Exception):
    """Base class of errors about the state of files and models, as opposed to wrong arguments."""


class ArtefactMismatchError(ObjembError):
    """Two artefacts do not belong together (index and model, manifest and file). The message has both values."""


class NotFittedError(ObjembError):
    """A part that needs fitting was used before it was fitted. The message explains how to fit it."""


class MissingWeightsError(ObjembError):
    """Pretrained weights are neither cached nor downloadable. The message explains where to put them."""


class IndexFolderError(ObjembError):
    """The folder of an index does not exist, contains no index, or contains something that must not be overwritten."""


class DamagedIndexError(ObjembError):
    """A file of an index is missing, truncated or changed. ``verify`` lists everything that is damaged."""


class IndexLockedError(ObjembError):
    """Another process is writing to the index. The message contains its process id."""


class IndexWriteError(ObjembError):
    """Writing an index failed (full disk, no permission). What was published before is intact."""


class TrainingError(ObjembError):
    """A run cannot start or continue: another run's folder, a loss that is not finite, a full disk."""


class TerminatedError(TrainingError):
    """A run was ended by SIGTERM, as sent by schedulers and containers; the same command resumes it."""


def shape(name: str, value: A, expected: tuple[int | None, ...]) -> A:
    """Check that an array or a tensor has the ``expected`` shape; ``None`` stands for any length."""
    if not hasattr(value, "shape") or not hasattr(value, "ndim"):
        raise TypeError(f"{name}: expected an array or a tensor, found {type(value).__name__}")
    fits = value.ndim == len(expected) and all(e is None or e == s for e, s in zip(expected, value.shape, strict=False))
    if not fits:
        wanted = ", ".join("any" if e is None else str(e) for e in expected)
        raise ValueError(f"{name}: expected shape ({wanted}), found {tuple(value.shape)}")
    return value


def finite(name: str, value: A) -> A:
    """Check that no element of an array or a tensor is NaN or infinite."""
    if hasattr(value, "isfinite"):  # a tensor
        good = value.isfinite()
    else:
        import numpy as np  # here, since the errors of this module are imported without NumPy

        good = np.isfinite(value)
    if not bool(good.all()):
        raise ValueError(
            f"{name}: expected finite values, found {int((~good).sum())} NaN or infinite of {math.prod(good.shape)}"
        )
    return value


def positive(name: str, value: N) -> N:
    """Check that a number is finite and above zero."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= sys.float_info.max:
        raise ValueError(f"{name}: expected a number above 0, found {value!r}")
    return value


def between(name: str, value: N, low: float, high: float) -> N:
    """Check that ``low <= value <= high``."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"{name}: expected a number from {low:g} to {high:g}, found {value!r}")
    return value


def whole(name: str, value: int, least: int = 1) -> int:
    """Check that a number is an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: expected an integer of {least} or more, found {value!r}")
    return value


def interval(name: str, value: Sequence[N], low: float = 0, high: float = float("inf")) -> tuple[N, N]:
    """Check that a value is a pair (minimum, maximum) of numbers, both from ``low`` to ``high``."""
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        raise ValueError(f"{name}: expected two numbers, the minimum and the maximum, found {value!r}")
    for number in value:
        between(name, number, low, high)
    if value[0] > value[1]:
        raise ValueError(f"{name}: expected the minimum before the maximum, found {value!r}")
    return value[0], value[1]


def whole_interval(name: str, value: Sequence[int]) -> tuple[int, int]:
    """Check that a value is a pair (minimum, maximum) of integers, both at least 0."""
    low, high = interval(name, value)
    return whole(name, low, 0), whole(name, high, 0)


def flag(name: str, value: bool) -> bool:
    """Check that a value is true or false: the text "no" would count as true otherwise."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}: expected true or false, found {value!r}")
    return value


def several(name: str, value: Sequence[T]) -> tuple[T, ...]:
    """Check that a value is a list of at least one item."""
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise ValueError(f"{name}: expected a list of at least one item, found {value!r}")
    return tuple(value)


def one_of(name: str, value: T, known: Collection[T]) -> T:
    """Check that ``value`` is one of ``known``; the message lists them and suggests the nearest."""
    if value not in known:
        raise ValueError(f"{name}: expected one of {listed(known)}, found {value!r}{nearest(value, known)}")
    return value


def nearest(value: object, known: Iterable[object]) -> str:
    """`` (did you mean 'x'?)`` for the closest of ``known``, or an empty string when nothing is close."""
    close = difflib.get_close_matches(str(value), [str(k) for k in known], n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def listed(known: Iterable[object]) -> str:
    """The choices as ``'a', 'b', 'c'``, in their given order."""
    return ", ".join(repr(k) for k in known)


def short(value: object) -> str:
    """A value for a message, truncated to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def lines(problems: Sequence[str], most: int = 10) -> str:
    """The first problems of a file, one per line, and the number of further ones, to end an error message."""
    rest = len(problems) - most
    return "".join(f"\n  {line}" for line in (*problems[:most], *([f"and {rest} more"] if rest > 0 else [])))
