"""Writing tables as Arrow IPC files of exactly one batch, and reading such files safely.

Checksums detect damage, but not forgery. So a file is fully validated before it is used, and compressed files are
refused, since a few kilobytes could expand to gigabytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import pyarrow as pa

#: Bytes at the end of a file: the length of the footer and a magic word.
_TAIL = 10
#: Bytes of a message's location in the footer, and of the prefix of the message itself.
_BLOCK, _PREFIX = 24, 8
_DICTIONARY = 2


def to_ipc(parts: Sequence[pa.Table], schema: pa.Schema) -> pa.Buffer:
    """Concatenate tables into an Arrow IPC file with exactly one batch."""
    whole = pa.concat_tables([schema.empty_table(), *parts]).unify_dictionaries().combine_chunks()
    arrays = [c.chunk(0) if c.num_chunks else pa.array([], c.type) for c in whole.columns]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch(arrays, schema=schema))
    return sink.getvalue()


def from_ipc(buffer: pa.Buffer, schema: pa.Schema, count: int) -> pa.RecordBatch:
    """The batch of an Arrow IPC file, without copying and with all offsets validated.

    Raises:
        ValueError, OSError: It is not such a file, is compressed, has another schema or number of rows, or contains
            offsets outside of itself.
    """
    if any(_compressed(memoryview(buffer).cast("B"))):
        raise ValueError("expected tables that are not compressed, found one that is")
    with pa.ipc.open_file(pa.BufferReader(buffer)) as reader:
        if reader.num_record_batches != 1 or not reader.schema.equals(schema):
            raise ValueError(f"expected one batch of {schema.names}, found {reader.schema.names}")
        batch = reader.get_batch(0)
    if batch.num_rows != count:
        raise ValueError(f"expected {count} rows, found {batch.num_rows}")
    batch.validate(full=True)
    empty = [f.name for f, c in zip(schema, batch.columns, strict=True) if _missing(c, f.nullable)]
    if empty:
        raise ValueError(f"expected values everywhere in {empty}, found nulls")
    return batch


def _missing(column: pa.Array, nullable: bool) -> int:
    """Number of nulls in places that must not have any, including those within lists and dictionaries."""
    inside = 0
    if pa.types.is_fixed_size_list(column.type):
        inside = column.flatten().null_count
    elif pa.types.is_dictionary(column.type):
        inside = column.dictionary.null_count
    return inside + (0 if nullable else column.null_count)


def _compressed(content: memoryview) -> Iterator[bool]:
    """Whether each dictionary and batch of a file is compressed, according to its footer, without reading them.

    The format is that of Arrow's ``File.fbs`` and ``Message.fbs``, in FlatBuffers, whose tables locate their fields by
    offsets.
    """
    try:
        (length,) = struct.unpack_from("<i", content[-_TAIL:])
        footer = content[-_TAIL - length : -_TAIL]
        root = _follow(footer, 0)
        for field in (2, 3):  # dictionaries, batches
            place = _field(footer, root, field)
            if place is None:
                continue
            vector = _follow(footer, place)
            (count,) = struct.unpack_from("<I", footer, vector)
            for number in range(min(count, len(footer) // _BLOCK + 1)):
                (start,) = struct.unpack_from("<q", footer, vector + 4 + number * _BLOCK)
                message = content[start + _PREFIX :]
                yield bytes(content[start : start + 4]) != b"\xff\xff\xff\xff" or _message_compressed(message)
    except (struct.error, IndexError, OverflowError) as error:
        raise ValueError(f"expected the footer of an Arrow file, found another end ({error})") from error


def _message_compressed(message: memoryview) -> bool:
    root = _follow(message, 0)
    kind, header = _field(message, root, 1), _field(message, root, 2)
    if kind is None or header is None:
        return False  # no batch, as Arrow will say
    batch = _follow(message, header)
    if message[kind] == _DICTIONARY:
        data = _field(message, batch, 1)
        if data is None:
            return False
        batch = _follow(message, data)
    return _field(message, batch, 3) is not None


def _follow(data: memoryview, place: int) -> int:
    """Follow the offset stored at a position."""
    return place + int(struct.unpack_from("<I", data, place)[0])


def _field(data: memoryview, table: int, number: int) -> int | None:
    """Position of a field of a table, or None if the table does not have it."""
    fields = table - int(struct.unpack_from("<i", data, table)[0])
    if fields < 0:  # which Python would count from the end
        raise struct.error("an offset before the beginning")
    (size,) = struct.unpack_from("<H", data, fields)
    at = 4 + 2 * number
    offset = int(struct.unpack_from("<H", data, fields + at)[0]) if at + 2 <= size else 0
    return table + offset if offset else None
