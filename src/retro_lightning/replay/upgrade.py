"""Behaviour half: rows of older record layouts as the present one has them."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from retro_lightning.replay.content import CONTENT, content_hashes
from retro_lightning.replay.schema import SCHEMA


def upgraded(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Rows of any layout with the columns of ``SCHEMA``; what they lacked is null."""
    return batch if batch.schema.equals(SCHEMA) else columns(batch, SCHEMA.names)


def columns(batch: pa.RecordBatch, names: Iterable[str]) -> pa.RecordBatch:
    """Some top-level columns of rows of any layout.

    Layouts before the third had another content hash: theirs is made anew, so that hashes of all
    layouts can be compared.
    """
    fields = [SCHEMA.field(name) for name in names]
    old = "recorded_at" not in batch.schema.names
    arrays = [
        _rehashed(batch) if old and field.name == "content_hash" else _column(batch, field)
        for field in fields
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields, SCHEMA.metadata))


def _rehashed(batch: pa.RecordBatch) -> pa.Array:
    found = [_column(batch, SCHEMA.field(name)) for name in CONTENT]
    return pa.array(content_hashes(found), pa.string())


def _column(batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
    if field.name not in batch.schema.names:
        return pa.nulls(len(batch), field.type)
    return _upgraded(batch.column(field.name), field.type)


def _upgraded(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    if array.type.equals(wanted):
        return array
    if pa.types.is_list(wanted):
        values = _upgraded(array.values, wanted.value_type)
        missing = array.is_null() if array.null_count else None
        return pa.ListArray.from_arrays(array.offsets, values, type=wanted, mask=missing)
    if pa.types.is_struct(wanted):
        present = {field.name for field in array.type}
        children = [
            _upgraded(array.field(field.name), field.type)
            if field.name in present
            else pa.nulls(len(array), field.type)
            for field in wanted
        ]
        return pa.StructArray.from_arrays(children, fields=list(wanted), mask=array.is_null())
    return array.cast(wanted)
