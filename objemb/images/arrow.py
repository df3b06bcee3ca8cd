"""Values of Arrow columns as Python objects, including times and durations that Python's own types cannot represent."""

from __future__ import annotations

import datetime
import decimal
import zoneinfo
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

#: Units of Arrow's times, in nanoseconds.
UNITS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
SECOND, DAY = 10**9, 86_400 * 10**9


def is_single(kind: object) -> bool:
    """Whether the values of a type are scalars, neither lists nor structures nor bytes."""
    import pyarrow.types as types

    kind = _plain(kind)
    raw = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view, types.is_interval)
    return not types.is_nested(kind) and not any(test(kind) for test in raw)


def values(column: pa.Array) -> list[object]:
    """The values of an array as numbers, booleans, texts and None. Decimals become floats.

    Timestamps, dates and times of day become ISO 8601 texts. Timestamps with a time zone are in local time with its
    offset, or in UTC if this machine does not know the zone or the year is outside 1 to 9999. Durations become seconds.
    """
    import pyarrow as pa

    if isinstance(column.type, pa.ExtensionType):
        column = column.storage
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_run_end_encoded(column.type):
        column = column.cast(column.type.value_type)
    convert = _of_time(column.type)
    if convert is None:
        return [float(v) if isinstance(v, decimal.Decimal) else v for v in column.to_pylist()]
    numbers = column.cast(pa.int32() if column.type.bit_width == 32 else pa.int64()).to_pylist()
    return [None if number is None else convert(number) for number in numbers]


def _plain(kind: pa.DataType) -> object:
    """The type of the values inside an encoding or an extension type."""
    import pyarrow as pa

    if isinstance(kind, pa.ExtensionType):
        kind = kind.storage_type
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        kind = kind.value_type
    return kind


def _of_time(kind: pa.DataType) -> Callable[[int], str | float] | None:
    """Converter from the stored integers of a temporal type to a text or a number; None for other types."""
    import pyarrow.types as types

    if types.is_date32(kind):
        return lambda days: _date(days)
    if types.is_date64(kind):
        return lambda ms: _date(ms * UNITS["ms"] // DAY)
    if types.is_time(kind):
        return lambda number: _time(number * UNITS[kind.unit])
    if types.is_duration(kind):
        return lambda number: number * UNITS[kind.unit] / SECOND
    if types.is_timestamp(kind):
        zone = _zone(kind.tz)
        return lambda number: _moment(number * UNITS[kind.unit], zone, kind.tz is not None)
    return None


def _zone(name: str | None) -> datetime.tzinfo | None:
    """The time zone of a name or of an offset such as ``+02:00``; UTC if it is unknown."""
    if name is None:
        return None
    if name[:1] in "+-":
        try:
            return datetime.datetime.fromisoformat(f"2000-01-01T00:00:00{name}").tzinfo
        except ValueError:
            return datetime.UTC
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return datetime.UTC


def _date(days: int) -> str:
    return str(np.datetime64(days, "D"))


def _time(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, SECOND)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{_fraction(rest)}"


def _fraction(nanoseconds: int) -> str:
    """The fraction of a second as ``isoformat`` writes it: nothing for 0, else six or, if necessary, nine digits."""
    if nanoseconds == 0:
        return ""
    return f".{nanoseconds:09d}" if nanoseconds % 1000 else f".{nanoseconds // 1000:06d}"


def _moment(nanoseconds: int, zone: datetime.tzinfo | None, zoned: bool) -> str:
    seconds, rest = divmod(nanoseconds, SECOND)
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    try:
        local = (epoch + datetime.timedelta(seconds=seconds)).astimezone(zone or datetime.UTC)
    except OverflowError:
        days, left = divmod(seconds, DAY // SECOND)
        return f"{_date(days)}T{_time(left * SECOND + rest)}{'+00:00' if zoned else ''}"
    whole = local.replace(tzinfo=None).isoformat()
    offset = local.isoformat()[len(whole) :] if zoned else ""
    return f"{whole}{_fraction(rest)}{offset}"
