"""Shards as earlier releases wrote them: fewer columns, and content hashes of sorted JSON."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from retro_lightning.replay import shard
from retro_lightning.replay.records import encode
from retro_lightning.replay.schema import SCHEMA
from retro_lightning.trajectory import Trajectory

_SINCE_2 = ("reflections", "outcome_return")
_GENERATION_1 = ("context_ids", "action_ids", "value")


def old_batch(made: Sequence[Trajectory], version: int) -> pa.RecordBatch:
    """Rows in layout 1 or 2; layout 1 loses what it had no columns for."""
    lacking = ("recorded_at",) if version == 2 else ("recorded_at", *_SINCE_2)
    fields = [_field(field, version) for field in SCHEMA if field.name not in lacking]
    rows = [
        {**row, "schema_version": version, "content_hash": _old_hash(one)}
        for row, one in zip(encode(made).to_pylist(), made, strict=True)
    ]
    return pa.RecordBatch.from_pylist(rows, pa.schema(fields))


def publish_old(folder: Path, made: Sequence[Trajectory], version: int = 2) -> None:
    """Publish a shard in an old layout, behind all that are there."""
    batch = old_batch(made, version)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shard, "SCHEMA", batch.schema)
        patched.setattr(shard, "SCHEMA_VERSION", version)
        shard.publish(folder, len(shard.published(folder)), [batch], [])


def _field(field: pa.Field, version: int) -> pa.Field:
    if field.name != "steps" or version == 2:
        return field
    step = [
        pa.field(part.name, pa.struct([part.type.field(name) for name in _GENERATION_1]))
        if part.name == "generation"
        else part
        for part in field.type.value_type
    ]
    item = pa.field("item", pa.struct(step), nullable=False)
    return pa.field("steps", pa.list_(item), nullable=False)


def _old_hash(made: Trajectory) -> str:
    """Hash of the sorted JSON of all fields but some; those since version 2 where they say much."""
    values: dict[str, Any] = dataclasses.asdict(made)
    for name in ("run", "attempt", "policy_version", "schema_version", "recorded_at"):
        del values[name]
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
