"""Data half: the Arrow schema of a shard, and records ⇄ Arrow, column by column.

One row is one trajectory. What the index needs stands in top-level columns, so that it is read
without touching the steps; ``steps`` is a list of structs. Any Arrow reader understands a shard.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from retro_lightning.trajectory import SCHEMA_VERSION, Generation, Step, Task, Trajectory

_TEXTS = pa.list_(pa.string())
_IDS = pa.list_(pa.int32())
_FLOATS = pa.list_(pa.float64())

_GENERATION = pa.struct(
    [
        pa.field("context_ids", _IDS, nullable=False),
        pa.field("action_ids", _IDS, nullable=False),
        pa.field("value", pa.float64()),
        pa.field("thought_length", pa.int32()),
        pa.field("thought_log_prob", pa.float64()),
        pa.field("temperature", pa.float64()),
        pa.field("kept_ids", pa.list_(_IDS)),
    ]
)
_STEP = pa.struct(
    [
        pa.field("observation", pa.string(), nullable=False),
        pa.field("valid_actions", _TEXTS),
        pa.field("action", pa.string(), nullable=False),
        pa.field("reward", pa.float64(), nullable=False),
        pa.field("thought", pa.string()),
        pa.field("log_prob", pa.float64()),
        pa.field("log_probs", _FLOATS),
        pa.field("generation", _GENERATION),
    ]
)
SCHEMA = pa.schema(
    [
        pa.field("trajectory_id", pa.string(), nullable=False),
        pa.field("content_hash", pa.string(), nullable=False),
        pa.field("task_id", pa.string(), nullable=False),
        pa.field("family", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("instruction", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("behaviour_id", pa.string(), nullable=False),
        pa.field("run", pa.string(), nullable=False),
        pa.field("attempt", pa.int32(), nullable=False),
        pa.field("policy_version", pa.int64()),
        pa.field("tokenizer", pa.string()),
        pa.field("terminated", pa.bool_(), nullable=False),
        pa.field("truncated", pa.bool_(), nullable=False),
        pa.field("truncation", pa.string()),
        pa.field("fault", pa.string()),
        pa.field("reflections", _TEXTS),
        pa.field("outcome_return", pa.float64()),
        pa.field("success", pa.bool_(), nullable=False),
        pa.field("total_return", pa.float64(), nullable=False),
        pa.field("length", pa.int32(), nullable=False),
        pa.field("schema_version", pa.int32(), nullable=False),
        pa.field("final_observation", pa.string(), nullable=False),
        pa.field("final_valid_actions", _TEXTS),
        pa.field("steps", pa.list_(pa.field("item", _STEP, nullable=False)), nullable=False),
    ],
    metadata={"retro_lightning.schema_version": str(SCHEMA_VERSION)},
)
"""Columns of a shard. Lengths are in steps, log-probabilities natural, null = unknown or none."""

INDEX_FIELDS = tuple(
    SCHEMA.field(name)
    for name in (
        "task_id",
        "family",
        "split",
        "source",
        "behaviour_id",
        "run",
        "attempt",
        "policy_version",
        "truncation",
        "success",
        "total_return",
        "length",
    )
)
"""Columns that the index keeps in memory."""

_TASK_FIELDS = ("task_id", "family", "split", "instruction", "seed")
_NESTED = ("final_valid_actions", "reflections", "steps")


def encode(trajectories: Sequence[Trajectory]) -> pa.RecordBatch:
    """Trajectories as one Arrow record batch, a row each, in their order."""
    columns: list[pa.Array] = []
    for column in SCHEMA:
        if column.name == "steps":
            columns.append(_encode_steps([t.steps for t in trajectories]))
        elif column.name in ("final_valid_actions", "reflections"):
            lists = [getattr(t, column.name) for t in trajectories]
            columns.append(_encode_lists(lists, _TEXTS))
        elif column.name in _TASK_FIELDS:
            values = [getattr(t.task, column.name) for t in trajectories]
            columns.append(pa.array(values, column.type))
        else:
            values = [getattr(t, column.name) for t in trajectories]
            columns.append(pa.array(values, column.type))
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def decode(batch: pa.RecordBatch) -> list[Trajectory]:
    """The trajectories of a record batch: the inverse of ``encode``.

    Args:
        batch: Rows with the columns of ``SCHEMA``, or of an older version of it; not a slice of a
            larger batch.
    """
    batch = upgraded(batch)
    plain: dict[str, list[Any]] = {
        column.name: batch.column(column.name).to_pylist()
        for column in SCHEMA
        if column.name not in _NESTED
    }
    for derived in ("trajectory_id", "content_hash", "total_return", "length"):
        del plain[derived]
    tasks = [
        Task(**dict(zip(_TASK_FIELDS, values, strict=True)))
        for values in zip(*(plain.pop(name) for name in _TASK_FIELDS), strict=True)
    ]
    names = tuple(plain)
    return [
        Trajectory(
            task=task,
            steps=steps,
            final_valid_actions=valid,
            reflections=reflections or (),
            **dict(zip(names, values, strict=True)),
        )
        for task, steps, valid, reflections, values in zip(
            tasks,
            _decode_steps(batch.column("steps")),
            _decode_lists(batch.column("final_valid_actions")),
            _decode_lists(batch.column("reflections")),
            zip(*plain.values(), strict=True),
            strict=True,
        )
    ]


def upgraded(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Rows of an older record layout with the columns of ``SCHEMA``; what they lacked is null."""
    if batch.schema.equals(SCHEMA):
        return batch
    arrays = [
        _upgraded(batch.column(column.name), column.type)
        if column.name in batch.schema.names
        else pa.nulls(len(batch), column.type)
        for column in SCHEMA
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


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


def _encode_steps(episodes: Sequence[tuple[Step, ...]]) -> pa.ListArray:
    steps = [step for episode in episodes for step in episode]
    children = [
        pa.array([step.observation for step in steps], pa.string()),
        _encode_lists([step.valid_actions for step in steps], _TEXTS),
        pa.array([step.action for step in steps], pa.string()),
        pa.array([step.reward for step in steps], pa.float64()),
        pa.array([step.thought for step in steps], pa.string()),
        pa.array([step.log_prob for step in steps], pa.float64()),
        _encode_lists([step.log_probs for step in steps], _FLOATS),
        _encode_generations([step.generation for step in steps]),
    ]
    return pa.ListArray.from_arrays(
        _offsets(episodes),
        pa.StructArray.from_arrays(children, fields=list(_STEP)),
        type=SCHEMA.field("steps").type,
    )


def _encode_generations(generations: Sequence[Generation | None]) -> pa.StructArray:
    children = [
        _encode_lists([() if g is None else g.context_ids for g in generations], _IDS),
        _encode_lists([() if g is None else g.action_ids for g in generations], _IDS),
        pa.array([None if g is None else g.value for g in generations], pa.float64()),
        pa.array([None if g is None else g.thought_length for g in generations], pa.int32()),
        pa.array([None if g is None else g.thought_log_prob for g in generations], pa.float64()),
        pa.array([None if g is None else g.temperature for g in generations], pa.float64()),
        _encode_kept([None if g is None else g.kept_ids for g in generations]),
    ]
    missing = pa.array([g is None for g in generations], pa.bool_())
    return pa.StructArray.from_arrays(children, fields=list(_GENERATION), mask=missing)


def _encode_kept(rows: Sequence[tuple[tuple[int, ...], ...] | None]) -> pa.ListArray:
    inner = _encode_lists([ids for row in rows if row for ids in row], _IDS)
    missing = pa.array([row is None for row in rows], pa.bool_())
    return pa.ListArray.from_arrays(_offsets(rows), inner, type=pa.list_(_IDS), mask=missing)


def _encode_lists(rows: Sequence[Sequence[Any] | None], type_: pa.ListType) -> pa.ListArray:
    """Lists from rows of values; None becomes null."""
    flat = pa.array([value for row in rows if row for value in row], type_.value_type)
    missing = pa.array([row is None for row in rows], pa.bool_())
    return pa.ListArray.from_arrays(_offsets(rows), flat, type=type_, mask=missing)


def _offsets(rows: Sequence[Sequence[Any] | None]) -> pa.Int32Array:
    offsets = np.zeros(len(rows) + 1, dtype=np.int32)
    lengths = np.fromiter((len(row) if row else 0 for row in rows), np.int32, len(rows))
    np.cumsum(lengths, out=offsets[1:])
    return pa.array(offsets)


def _decode_steps(column: pa.ListArray) -> list[tuple[Step, ...]]:
    fields = column.values
    steps = [
        Step(
            observation=observation,
            valid_actions=valid,
            action=action,
            reward=reward,
            thought=thought,
            log_prob=log_prob,
            log_probs=log_probs,
            generation=generation,
        )
        for observation, valid, action, reward, thought, log_prob, log_probs, generation in zip(
            fields.field("observation").to_pylist(),
            _decode_lists(fields.field("valid_actions")),
            map(sys.intern, fields.field("action").to_pylist()),
            fields.field("reward").to_pylist(),
            fields.field("thought").to_pylist(),
            fields.field("log_prob").to_pylist(),
            _decode_lists(fields.field("log_probs")),
            _decode_generations(fields.field("generation")),
            strict=True,
        )
    ]
    offsets = column.offsets.to_pylist()
    return [tuple(steps[start:end]) for start, end in itertools.pairwise(offsets)]


def _decode_generations(column: pa.StructArray) -> Iterable[Generation | None]:
    if column.null_count == len(column):
        return [None] * len(column)
    return [
        Generation(
            context_ids=context,
            action_ids=action,
            value=value,
            thought_length=thought_length or 0,
            thought_log_prob=thought,
            temperature=1.0 if temperature is None else temperature,
            kept_ids=kept,
        )
        if there
        else None
        for there, context, action, value, thought_length, thought, temperature, kept in zip(
            column.is_valid().to_pylist(),
            _decode_lists(column.field("context_ids")),
            _decode_lists(column.field("action_ids")),
            column.field("value").to_pylist(),
            column.field("thought_length").to_pylist(),
            column.field("thought_log_prob").to_pylist(),
            column.field("temperature").to_pylist(),
            _decode_kept(column.field("kept_ids")),
            strict=True,
        )
    ]


def _decode_kept(column: pa.ListArray) -> list[tuple[tuple[int, ...], ...] | None]:
    if column.null_count == len(column):
        return [None] * len(column)
    return [None if row is None else tuple(map(tuple, row)) for row in column.to_pylist()]


def _decode_lists(column: pa.ListArray) -> list[Any]:
    """Tuples from lists, None from null; texts that repeat (actions) share their memory."""
    flat = column.values.to_pylist()
    if pa.types.is_string(column.type.value_type):
        flat = list(map(sys.intern, flat))
    offsets = column.offsets.to_pylist()
    rows = [tuple(flat[start:end]) for start, end in itertools.pairwise(offsets)]
    if column.null_count:
        there = column.is_valid().to_pylist()
        return [row if valid else None for row, valid in zip(rows, there, strict=True)]
    return rows
