"""Behaviour half: trajectories ⇄ the Arrow columns of a shard."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import pyarrow as pa

from retro_lightning.replay import upgrade
from retro_lightning.replay.content import CONTENT, content_hashes
from retro_lightning.replay.schema import GENERATION, SCHEMA, STEP
from retro_lightning.trajectory import Generation, Step, Task, Trajectory

_TASK_FIELDS = ("task_id", "family", "split", "instruction", "seed")
_NESTED = ("final_valid_actions", "reflections", "steps")
_DERIVED = ("trajectory_id", "content_hash", "total_return", "length")
_NO_GENERATION = Generation(context_ids=(), action_ids=())
_STORED = tuple(name for name in SCHEMA.names if name not in _DERIVED)


def encode(trajectories: Sequence[Trajectory], now: float | None = None) -> pa.RecordBatch:
    """Trajectories as one Arrow record batch, a row each, in their order.

    Args:
        trajectories: The trajectories.
        now: When those were recorded that do not say it themselves, in seconds since 1970 (UTC).
    """
    tasks = [t.task for t in trajectories]
    columns = {
        field.name: _column(tasks if field.name in _TASK_FIELDS else trajectories, field)
        for field in SCHEMA
        if field.name not in ("content_hash", "steps")
    }
    columns["steps"] = _encode_steps([t.steps for t in trajectories])
    if now is not None:
        columns["recorded_at"] = columns["recorded_at"].fill_null(now)
    hashes = content_hashes([columns[name] for name in CONTENT])
    columns["content_hash"] = pa.array(hashes, pa.string())
    return pa.RecordBatch.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def content_hash(trajectory: Trajectory) -> str:
    """Hash of everything that was recorded, whoever recorded it (``content``).

    Of many trajectories ``encode`` has it for a fiftieth of the time each.
    """
    return str(encode([trajectory]).column("content_hash")[0].as_py())


def decode(batch: pa.RecordBatch) -> list[Trajectory]:
    """The trajectories of a record batch: the inverse of ``encode``.

    Args:
        batch: Rows with the columns of ``SCHEMA``, or of an older version of it; not a slice of a
            larger batch.
    """
    batch = upgrade.columns(batch, _STORED)
    plain: dict[str, list[Any]] = {
        name: batch.column(name).to_pylist() for name in _STORED if name not in _NESTED
    }
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


def _encode_steps(episodes: Sequence[tuple[Step, ...]]) -> pa.ListArray:
    steps = [step for episode in episodes for step in episode]
    generations = _encode_generations([step.generation for step in steps])
    plain = [_column(steps, field) for field in STEP if field.name != "generation"]
    return pa.ListArray.from_arrays(
        pa.array(np.cumsum([0, *map(len, episodes)]), pa.int32()),
        pa.StructArray.from_arrays([*plain, generations], fields=list(STEP)),
        type=SCHEMA.field("steps").type,
    )


def _encode_generations(generations: Sequence[Generation | None]) -> pa.StructArray:
    there = [g if g is not None else _NO_GENERATION for g in generations]
    missing = pa.array([g is None for g in generations], pa.bool_())
    children = [_column(there, field) for field in GENERATION]
    return pa.StructArray.from_arrays(children, fields=list(GENERATION), mask=missing)


def _column(records: Sequence[object], field: pa.Field) -> pa.Array:
    """A field of every record."""
    return pa.array(list(map(attrgetter(field.name), records)), field.type)


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
