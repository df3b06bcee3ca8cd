"""Reading pickles from others without executing them: plain values and NumPy arrays, nothing else.

A pickle is a program that may call any function. Here it may only call the functions that NumPy arrays and byte strings
need, all of which are replaced by code of this module; everything else is refused with an error that names it.
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

#: Kinds of NumPy's numeric types: boolean, integer, floating point, complex; not objects, strings or records.
NUMBERS = "biufc"
#: Maximum number of values in a pickle, repeated ones included; ground truth of the largest benchmarks has a few
#: million.
MAX_VALUES = 50_000_000


class UnreadablePickleError(ObjembError):
    """A pickle is damaged, or needs more than arrays. The message says what was found; nothing was executed."""


def read_pickled_arrays(file: str | Path) -> object:
    """The contents of a pickle: dicts, lists, tuples, strings, numbers and numeric NumPy arrays.

    Strings of Python 2 are read as Latin-1, as NumPy requires.

    Raises:
        FileNotFoundError: The file does not exist.
        UnreadablePickleError: It is damaged, or contains something else.
    """
    with Path(file).open("rb") as stream:
        try:
            return _Revealer()(_Unpickler(stream, encoding="latin1").load())
        except Exception as error:  # a damaged or malicious file may cause any error
            reason = " ".join(str(error).split())[:300]
            found = f"{type(error).__name__}: {reason}"
            if isinstance(error, KeyError):  # an unknown opcode
                found = f"UnpicklingError: not a pickle, or a damaged one, with the unknown opcode {reason}"
            raise UnreadablePickleError(
                f"{file}: expected a pickle of plain values and NumPy arrays, found {found}"
            ) from error


class _Type:
    """Replaces ``numpy.dtype``: a name such as ``f4``, and the byte order in its state."""

    def __init__(self, name: str, *_: object) -> None:
        self.name = name

    def __setstate__(self, state: tuple[object, ...]) -> None:
        self.name = f"{state[1]}{self.name}" if state[1] in ("<", ">") else self.name

    def dtype(self) -> np.dtype[np.generic]:
        if not isinstance(self.name, str) or np.dtype(self.name).kind not in NUMBERS:
            raise TypeError(f"expected an array of numbers, found one of {self.name!r}")
        return np.dtype(self.name)


class _Array:
    """Replaces an array: created empty, then filled from its state ``(version, shape, dtype, Fortran order,
    bytes)``."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, data = state
        content = data.encode("latin1") if isinstance(data, str) else data
        self.value = _values(kind, content).reshape(shape, order="F" if fortran else "C")


def _values(kind: _Type, content: bytes) -> AnyArray:
    return np.frombuffer(content, kind.dtype()).copy()


def _scalar(kind: _Type, content: bytes | str) -> object:
    """Replaces ``numpy.core.multiarray.scalar``."""
    data = content.encode("latin1") if isinstance(content, str) else content
    return _values(kind, data).reshape(()).item()


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _from_buffer(content: bytes, kind: _Type, shape: tuple[int, ...], order: str) -> _Array:
    """Replaces ``numpy.core.numeric._frombuffer``, which protocol 5 uses for arrays."""
    array = _Array()
    array.__setstate__((1, shape, kind, order == "F", bytes(content)))
    return array


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Replaces ``_codecs.encode``, which protocols 0 to 2 use for bytes."""
    if encoding != "latin1":
        raise TypeError(f"expected bytes written as latin1, found {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    """Replaces ``bytes``, which those protocols call for the empty byte string."""
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
    """The unpickler written in Python: the one in C allocates gigabytes for a memo with a high index."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name}, which would have to be executed")
        return ALLOWED[module, name]


class _Revealer:
    """Replaces the placeholders by arrays; an object that occurs several times stays one object.

    The number of values is limited, because a few bytes can describe nested lists of the same list, whose expansion is
    exponential.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[object, int]] = {}

    def __call__(self, value: object) -> object:
        return self._revealed(value)[0]

    def _revealed(self, value: object) -> tuple[object, int]:
        """The value, and the number of values that it contains."""
        if isinstance(value, _Array):
            return value.value, 1
        if not isinstance(value, (dict, list, tuple)):
            return value, 1
        if id(value) not in self._known:
            self._known[id(value)] = (None, MAX_VALUES)  # an object that contains itself is infinite
            inner = [self._revealed(v) for v in (value.values() if isinstance(value, dict) else value)]
            count = 1 + sum(n for _, n in inner)
            if count > MAX_VALUES:
                raise ValueError(f"expected at most {MAX_VALUES} values, found more within each other")
            values = (v for v, _ in inner)
            made = dict(zip(value, values, strict=True)) if isinstance(value, dict) else type(value)(values)
            self._known[id(value)] = made, count
        return self._known[id(value)]
