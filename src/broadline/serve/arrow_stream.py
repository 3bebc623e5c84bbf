"""Tables as Arrow IPC streams, from senders that are not trusted."""

from __future__ import annotations

import struct

import pyarrow as pa
import pyarrow.types as pt

from broadline.errors import UsageError
from broadline.ragged import is_list
from broadline.serve.limits import Limits
from broadline.web import TooLargeError

__all__ = ["MEDIA_TYPE", "read", "write"]

MEDIA_TYPE = "application/vnd.apache.arrow.stream"

# Of a message's header in Arrow's format/Message.fbs: kinds, and places of fields.
_DICTIONARY, _BATCH = 2, 3
_KIND, _HEADER, _DATA, _COMPRESSION = 1, 2, 1, 3


def read(body: bytes | bytearray, limits: Limits) -> pa.Table:
    """Return the table in a body, checked so that nothing in it can lead out of its buffers.

    Raises
    ------
    UsageError
        If it is no Arrow stream, a damaged or a compressed one.
    TooLargeError
        If it has more rows or numbers than are allowed.
    """
    content = pa.py_buffer(body)
    try:
        if any(map(_is_compressed, pa.ipc.MessageReader.open_stream(content))):
            raise UsageError("the Arrow stream is compressed, which is not taken: write it uncompressed")
        reader = pa.ipc.open_stream(content)
        batches, n_rows = [], 0
        for batch in reader:
            n_rows += batch.num_rows
            if n_rows > limits.n_spectra:
                raise TooLargeError(f"a request may have {limits.n_spectra:,} spectra at most")
            batches.append(batch)
        table = pa.Table.from_batches(batches, reader.schema)
        table.validate(full=True)
        names = table.schema.names
    # Arrow says what is wrong with a stream in all these ways.
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        reason = str(error).split("\n")[0][:120]
        raise UsageError(f"the body is no whole Arrow stream ({reason})") from error
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"the table has two columns called {twice!r}: give each a name of its own")
    if any(sum(map(_n_values, column.chunks)) > limits.n_values for column in table.columns):
        raise TooLargeError(f"a column may have {limits.n_values:,} numbers at most: send fewer spectra")
    return table


def write(table: pa.Table) -> bytes:
    """Return a table as a stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _n_values(array: pa.Array) -> int:
    """Return how many values the lists of a column have; nulls and logicals are many in few bytes."""
    if is_list(array.type):
        return max(len(array.values), _n_values(array.values))
    if pt.is_struct(array.type):
        return max((_n_values(array.field(i)) for i in range(array.type.num_fields)), default=0)
    return 0


def _is_compressed(message: pa.ipc.Message) -> bool:
    """Tell whether a message's buffers are compressed: a few bytes of these may stand for gigabytes.

    pyarrow does not tell, so that its header, a flatbuffer that pyarrow has verified, is looked at here.
    """
    header = message.metadata.to_pybytes()
    root = _follow(header, 0)
    kind = _field(header, root, _KIND)
    if not kind or header[kind] not in (_DICTIONARY, _BATCH):
        return False
    batch = _follow(header, _field(header, root, _HEADER))
    if header[kind] == _DICTIONARY:
        batch = _follow(header, _field(header, batch, _DATA))
    return _field(header, batch, _COMPRESSION) > 0


def _follow(flatbuffer: bytes, at: int) -> int:
    """Return where what a flatbuffer refers to lies."""
    return at + int(struct.unpack_from("<I", flatbuffer, at)[0])


def _field(flatbuffer: bytes, table: int, number: int) -> int:
    """Return where a field of a flatbuffer's table lies; 0 if it is not there."""
    fields = table - int(struct.unpack_from("<i", flatbuffer, table)[0])
    size, place = int(struct.unpack_from("<H", flatbuffer, fields)[0]), 4 + 2 * number
    offset = int(struct.unpack_from("<H", flatbuffer, fields + place)[0]) if place < size else 0
    return table + offset if offset else 0
