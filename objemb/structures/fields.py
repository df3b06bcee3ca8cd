"""Checks and conversions of single fields, shared by the types of this package."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, TypeGuard, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from objemb import checks
from objemb.types import AnyArray, BoolArray, Float32Array, Int64Array

if TYPE_CHECKING:
    from torch import Tensor

Box: TypeAlias = tuple[float, float, float, float]
#: Types of metadata values; JSON and Arrow preserve them.
Scalar: TypeAlias = str | int | float | bool | None
#: Extra values per region: an array with one row per region, or one JSON scalar per region.
Payload: TypeAlias = AnyArray | tuple[Scalar, ...]
#: Selects regions: a number, a slice, several numbers or a boolean mask.
Index: TypeAlias = int | slice | ArrayLike

#: Number types of payloads in JSON.
PAYLOAD_DTYPES = ("float16", "float32", "float64", "bool", "uint8", "int32", "int64")


V = TypeVar("V")


class ReadOnlyDict(dict[str, V]):
    """An immutable dict. Unlike ``MappingProxyType`` it can be pickled, copied and written as JSON.

    :meth:`copy` returns a plain dict.
    """

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("expected no change of a read-only mapping, found one; change a copy of it, dict(mapping)")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type, tuple[dict[str, V]]]:
        return type(self), (dict(self),)


def checked_size(name: str, size: Sequence[int]) -> tuple[int, int]:
    """``(height, width)`` as two integers above 0, or ``ValueError``."""
    pair = isinstance(size, Sequence) and len(size) == 2
    if not pair or not all(isinstance(s, int) and s > 0 for s in size):
        raise ValueError(f"{name}: expected (height, width) as two integers above 0, found {size!r}")
    return (size[0], size[1])


def checked_box(name: str, box: Sequence[float]) -> Box:
    """``(x1, y1, x2, y2)`` as finite floats in order, or ``ValueError``."""
    try:
        x1, y1, x2, y2 = map(float, box)
        if -math.inf < x1 <= x2 < math.inf and -math.inf < y1 <= y2 < math.inf:
            return x1, y1, x2, y2
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"{name}: expected (x1, y1, x2, y2) with x1 <= x2 and y1 <= y2, found {box!r}")


def are_fractions(box: Sequence[float], size: tuple[float, float] | None) -> bool:
    """Whether the coordinates of a box are fractions of its photo, from 0 to 1, rather than pixels.

    ``size`` is that of the photo, in any order, or None if unknown; in a photo of one or two pixels both are possible.
    """
    return all(0 <= v <= 1 for v in box) and (size is None or max(size) > 2)


def frozen_metadata(name: str, metadata: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
    """A read-only copy of a mapping from strings to JSON scalars; raises ``TypeError`` for any other."""
    for key, value in metadata.items():
        if not isinstance(key, str) or not (value is None or isinstance(value, (str, int, float, bool))):
            raise TypeError(f"{name}: expected strings to JSON scalars, found {key!r}: {type(value).__name__}")
    return ReadOnlyDict(metadata)


def metadata_to_json(metadata: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """A copy for JSON, with NaN and infinity replaced by None."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in metadata.items()}


def checked_id(name: str, image: str) -> str:
    """A non-empty string, or ``ValueError``."""
    if not isinstance(image, str) or not image:
        raise ValueError(f"{name}: expected a non-empty string, found {image!r}")
    return image


def is_tensor(value: object) -> TypeGuard[Tensor]:
    """Whether a value is a tensor of PyTorch; where that was never imported, nothing is one."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def as_array(name: str, value: object) -> AnyArray:
    """Numbers as a NumPy array, which shares the memory of an array or a CPU tensor and is a copy of anything else.

    Args:
        name: Name of the value in the error.
        value: An array, a PyTorch tensor on any device (its gradient is dropped), or nested lists of numbers.

    Raises:
        TypeError: The value is none of these.
    """
    if is_tensor(value):
        tensor = value.detach().cpu()
        numbers: AnyArray = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
        return numbers
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        array = np.empty(0, object)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name}: expected an array or a tensor of numbers, found {type(value).__name__}")
    return array


def points_inside(points: Float32Array, boxes: Float32Array) -> BoolArray:
    """Whether points lie in boxes, edges included: bool ``(boxes, points)``.

    Args:
        points: float32 ``(N, 2)``, x and y.
        boxes: float32 ``(n, 4)``, in the same frame.
    """
    x, y = points.T
    x1, y1, x2, y2 = boxes.T[:, :, None]
    inside: BoolArray = (x >= x1) & (x <= x2) & (y >= y1) & (y <= y2)
    return inside


def row_numbers(index: Index, count: int) -> Int64Array:
    """Convert any kind of index to row numbers from 0, int64 ``(n,)``."""
    if isinstance(index, slice):
        return np.arange(count, dtype=np.int64)[index]
    picked = as_array("index", index)
    if picked.dtype.kind == "f" and picked.size:  # an empty list becomes an array of floats
        raise TypeError(f"index: expected integers or booleans, found {picked.dtype}")
    if picked.dtype == bool:
        checks.shape("boolean index", picked, (count,))
        return np.flatnonzero(picked)
    rows = picked.reshape(-1).astype(np.int64)
    if len(rows) and (int(rows.min()) < -count or int(rows.max()) >= count):
        raise IndexError(f"index: expected numbers below {count}, found {rows.tolist()}")
    return np.where(rows < 0, rows + count, rows)


def checked_payload(name: str, value: object, count: int) -> Payload:
    """Check that a value is an array or a sequence of JSON scalars with ``count`` rows."""
    if not isinstance(value, (str, list, tuple)):
        array = as_array(name, value)
        return checks.shape(name, array, (count, *(None,) * (array.ndim - 1)))
    if isinstance(value, str) or not all(v is None or isinstance(v, (str, int, float, bool)) for v in value):
        raise TypeError(f"{name}: expected an array, a tensor or a sequence of JSON scalars, found {value!r}")
    if len(value) != count:
        raise ValueError(f"{name}: expected {count} rows, one per region, found {len(value)}")
    return tuple(value)


def pick_payload(value: Payload, rows: Int64Array) -> Payload:
    """Select rows of a payload."""
    return tuple(value[i] for i in rows.tolist()) if isinstance(value, tuple) else value[rows]


def cat_payload(values: Sequence[Payload]) -> Payload:
    """Concatenate payloads; the result is a sequence of scalars unless all are arrays."""
    arrays = [v for v in values if not isinstance(v, tuple)]
    if len(arrays) == len(values):
        return np.concatenate(arrays)
    return tuple(item for v in values for item in (v if isinstance(v, tuple) else v.tolist()))


def payload_to_json(value: Payload) -> dict[str, object]:
    """A JSON-ready dict, read by :func:`payload_from_json`."""
    if isinstance(value, tuple):
        return {"dtype": "scalars", "values": list(value)}
    dtype = checks.one_of("payload dtype", str(value.dtype), PAYLOAD_DTYPES)
    return {"dtype": dtype, "shape": list(value.shape), "values": value.tolist()}


def payload_from_json(data: Mapping[str, Any]) -> Payload:
    """A payload from the output of :func:`payload_to_json`."""
    expect_keys("payload", data, ("dtype", "values"))
    if data["dtype"] == "scalars":
        return tuple(data["values"])
    dtype = checks.one_of("payload dtype", data["dtype"], PAYLOAD_DTYPES)
    return np.array(data["values"], dtype).reshape(data["shape"])


def expect_keys(name: str, data: Mapping[str, object], keys: Sequence[str]) -> None:
    """Raise ``ValueError`` with the expected and the found keys if one of ``keys`` is missing."""
    missing = [k for k in keys if k not in data]
    if missing:
        raise ValueError(f"{name}: expected the keys {checks.listed(keys)}, found {checks.listed(data)}")
