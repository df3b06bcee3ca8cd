"""Reading pickles of others without running them: plain values and NumPy arrays, nothing else.

A pickle is a program that may call anything. Here it may call what NumPy arrays and strings of bytes are written with,
and each of these calls ends in code of this file; whatever else it asks for is refused by name.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from objemb.checks import ObjembError
from objemb.types import AnyArray

#: Kinds of NumPy's numbers: truth values, integers, floats, complex. Not objects, texts or records.
NUMBERS = "biufc"
#: What a pickle holds, unfolded; ground truth of the largest benchmarks has a few millions.
MOST_VALUES = 50_000_000


class UnreadablePickleError(ObjembError):
    """A pickle is damaged, or asks for more than arrays. The message says what was found; nothing of it was run."""


def read_pickled_arrays(file: str | Path) -> object:
    """What a pickle holds: dicts, lists, tuples, texts, numbers and NumPy arrays of numbers.

    Python 2's texts are read as Latin-1, as NumPy wants it.

    Raises:
        FileNotFoundError: There is no such file.
        UnreadablePickleError: It is damaged, or holds something else.
    """
    with Path(file).open("rb") as stream:
        try:
            return _Revealer()(_Unpickler(stream, encoding="latin1").load())
        except Exception as error:  # a broken or hostile file leads anywhere
            reason = " ".join(str(error).split())[:300]
            found = f"{type(error).__name__}: {reason}"
            if isinstance(error, KeyError):  # the number of a byte that is no instruction
                found = (
                    f"UnpicklingError: no pickle, or a damaged one, with the byte {reason} where an instruction is due"
                )
            raise UnreadablePickleError(
                f"{file}: expected a pickle of plain values and NumPy arrays, found {found}"
            ) from error


class _Type:
    """Stands for ``numpy.dtype``: a name such as ``f4``, and a byte order that follows as state."""

    def __init__(self, name: str, *_: object) -> None:
        self.name = name

    def __setstate__(self, state: tuple[object, ...]) -> None:
        self.name = f"{state[1]}{self.name}" if state[1] in ("<", ">") else self.name

    def dtype(self) -> np.dtype[np.generic]:
        if not isinstance(self.name, str) or np.dtype(self.name).kind not in NUMBERS:
            raise TypeError(f"expected an array of numbers, found one of {self.name!r}")
        return np.dtype(self.name)


class _Array:
    """Stands for an array: made empty, then filled by its state ``(version, shape, dtype, Fortran order, bytes)``."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, data = state
        content = data.encode("latin1") if isinstance(data, str) else data
        self.value = _values(kind, content).reshape(shape, order="F" if fortran else "C")


def _values(kind: _Type, content: bytes) -> AnyArray:
    return np.frombuffer(content, kind.dtype()).copy()


def _scalar(kind: _Type, content: bytes | str) -> object:
    """Stands for ``numpy.core.multiarray.scalar``."""
    data = content.encode("latin1") if isinstance(content, str) else content
    return _values(kind, data).reshape(()).item()


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _from_buffer(content: bytes, kind: _Type, shape: tuple[int, ...], order: str) -> _Array:
    """Stands for ``numpy.core.numeric._frombuffer``, by which protocol 5 writes arrays."""
    array = _Array()
    array.__setstate__((1, shape, kind, order == "F", bytes(content)))
    return array


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Stands for ``_codecs.encode``, by which protocols 0 to 2 write bytes."""
    if encoding != "latin1":
        raise TypeError(f"expected bytes written as latin1, found {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """Stands for ``bytes``, which those protocols call for the empty string of bytes."""
    return b""


ALLOWED: dict[tuple[str, str], Callable[..., object]] = {
    ("__builtin__", "bytes"): _no_bytes,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _Array,
    **{
        (f"numpy.{core}.{module}", name): stand_in
        for core in ("core", "_core")
        for module, name, stand_in in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}


class _Unpickler(pickle._Unpickler):
    """The one in Python: the one in C fills tables of gigabytes where a few bytes name a memo of a high number."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name}, which would have to be run to be read")
        return ALLOWED[module, name]


class _Revealer:
    """Puts arrays in the place of what stands for them; what is there several times stays one object.

    A few bytes can name a list of lists that are all the same, whose values, one after the other, have no end.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[object, int]] = {}

    def __call__(self, value: object) -> object:
        return self._revealed(value)[0]

    def _revealed(self, value: object) -> tuple[object, int]:
        """The value, and how many values it unfolds to."""
        if isinstance(value, _Array):
            return value.value, 1
        if not isinstance(value, (dict, list, tuple)):
            return value, 1
        if id(value) not in self._known:
            self._known[id(value)] = (None, MOST_VALUES)  # what holds itself has no end
            inner = [self._revealed(v) for v in (value.values() if isinstance(value, dict) else value)]
            count = 1 + sum(n for _, n in inner)
            if count > MOST_VALUES:
                raise ValueError(f"expected at most {MOST_VALUES} values, found more within each other")
            values = (v for v, _ in inner)
            made = dict(zip(value, values, strict=True)) if isinstance(value, dict) else type(value)(values)
            self._known[id(value)] = made, count
        return self._known[id(value)]
