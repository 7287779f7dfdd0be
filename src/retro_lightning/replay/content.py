"""Behaviour half: what a stored trajectory says, as a hash, whoever recorded it and whenever.

The hash is of the Arrow columns themselves, not of a text made from them. A row's bytes are written
level by level, little-endian whatever the machine. A level is a set of columns of equal length
(those of the row; those of its steps). It is written as a table, a line for each entry: of a number
a byte that says whether it is there, and the number (0 if not); of a struct such a byte, with its
fields behind it; of a text or a list its length in 32 bits, -1 = null. What the texts and lists
hold follows, column by column: of texts the UTF-8 bytes, of lists of numbers the numbers, of other
lists a level again. Every length stands before what it measures, so that two rows have the same
bytes only if they say the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from retro_lightning.replay.schema import SCHEMA

Ints = npt.NDArray[np.int64]

_NOT_CONTENT = (
    *("trajectory_id", "content_hash", "run", "attempt", "policy_version"),
    *("total_return", "length", "schema_version", "recorded_at"),
)
"""Who made the record and when, and what follows from the rest."""

CONTENT = tuple(name for name in SCHEMA.names if name not in _NOT_CONTENT)
"""Columns that are content. One that is added must not change the hash of rows that it says nothing
of: it has to be written only where it does (``docs/decisions/0008``)."""

_WHEN_NULL: dict[str, Any] = {"reflections": [], "thought_length": 0, "temperature": 1.0}
"""What is meant where it is null: in rows of version 1, and where there is no generation."""


def content_hashes(columns: Sequence[pa.Array]) -> list[str]:
    """Hash of every row, 32 hexadecimal digits.

    Args:
        columns: The columns of ``CONTENT``, in its order.
    """
    rows = np.arange(len(columns[0]) + 1)
    pieces = _level(CONTENT, columns, rows)
    joined = pc.binary_join_element_wise(*pieces, pa.scalar(b"", pa.large_binary()))
    return [hashlib.sha256(row).hexdigest()[:32] for row in joined.to_pylist()]


def _level(
    names: Sequence[str], columns: Sequence[pa.Array], limits: Ints
) -> Iterator[pa.LargeBinaryArray]:
    """The bytes of each row in one level and in those below it, piece by piece.

    Args:
        names: Names of the columns.
        columns: The columns.
        limits: Where each row's entries begin, and where the last one's end.
    """
    cells: list[npt.NDArray[Any]] = []
    nested: list[tuple[pa.Array, Ints]] = []
    for column in _flat(names, columns):
        if pa.types.is_string(column.type) or pa.types.is_list(column.type):
            text = pa.types.is_string(column.type)
            length = _numbers(
                pc.binary_length(column) if text else pc.list_value_length(column), -1
            )
            cells.append(length)
            nested.append((column, np.concatenate([[0], np.cumsum(np.maximum(length, 0))])[limits]))
        else:
            cells.append(column.is_valid().to_numpy(zero_copy_only=False))
            if not pa.types.is_struct(column.type):
                cells.append(_numbers(column, 0))
    lines = np.empty(limits[-1], [(str(n), _little(cell)) for n, cell in enumerate(cells)])
    for number, cell in enumerate(cells):
        lines[str(number)] = cell
    yield _cut(lines, limits)
    for column, ends in nested:
        if pa.types.is_string(column.type):
            yield _cut(_utf8(column), ends)
        elif pa.types.is_primitive(column.type.value_type):
            values = column.flatten().to_numpy()
            yield _cut(values.astype(_little(values), copy=False), ends)
        else:
            yield from _level(("item",), (column.flatten(),), ends)


def _flat(names: Sequence[str], columns: Sequence[pa.Array]) -> Iterator[pa.Array]:
    """Columns, each struct followed by its fields, which are null where it is."""
    for name, column in zip(names, columns, strict=True):
        if column.null_count and name in _WHEN_NULL:
            column = pc.coalesce(column, pa.scalar(_WHEN_NULL[name], column.type))
        yield column
        if pa.types.is_struct(column.type):
            yield from _flat([field.name for field in column.type], column.flatten())


def _numbers(column: pa.Array, when_null: int) -> npt.NDArray[Any]:
    """Numbers, with another one in the place of null."""
    if column.null_count:
        column = column.fill_null(when_null)
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _utf8(column: pa.Array) -> npt.NDArray[np.uint8]:
    """The bytes of all texts, one after the other."""
    if column.null_count:
        column = column.fill_null("")
    _, offsets, data = column.buffers()
    if data is None:
        return np.zeros(0, np.uint8)
    limits = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
    return np.frombuffer(data, np.uint8)[limits[0] : limits[-1]]


def _little(values: npt.NDArray[Any]) -> np.dtype[Any]:
    """The type of the values, little-endian."""
    return values.dtype.newbyteorder("<")


def _cut(values: npt.NDArray[Any], limits: Ints) -> pa.LargeBinaryArray:
    """The bytes of consecutive pieces."""
    data, places = np.ascontiguousarray(values).view(np.uint8), limits * values.itemsize
    buffers = [None, pa.py_buffer(places.astype(np.int64, copy=False)), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.large_binary(), len(limits) - 1, buffers)
