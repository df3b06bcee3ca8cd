"""Names for types that all rooms use: arrays by what they hold, bytes, settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

BoolArray: TypeAlias = NDArray[np.bool_]
Int8Array: TypeAlias = NDArray[np.int8]
Int16Array: TypeAlias = NDArray[np.int16]
Int32Array: TypeAlias = NDArray[np.int32]
Int64Array: TypeAlias = NDArray[np.int64]
Uint8Array: TypeAlias = NDArray[np.uint8]
Uint32Array: TypeAlias = NDArray[np.uint32]
Uint64Array: TypeAlias = NDArray[np.uint64]
Float32Array: TypeAlias = NDArray[np.float32]
Float64Array: TypeAlias = NDArray[np.float64]
BytesArray: TypeAlias = NDArray[np.bytes_]
#: Floats of a precision that is known at run time only, such as vectors that an index stores in 16 or 32 bits.
FloatArray: TypeAlias = NDArray[np.floating]
#: Numbers or booleans of a type that is known at run time only, such as a column that a caller chose.
AnyArray: TypeAlias = NDArray[Any]
#: Bytes, or a view of them, such as of an array or of a file that is mapped.
Buffer: TypeAlias = bytes | memoryview
#: Settings of a plug-in or a method by name. Which values there may be is up to the constructors, which check them.
Settings: TypeAlias = Mapping[str, Any]
