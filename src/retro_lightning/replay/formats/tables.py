"""Behaviour half: Parquet and Arrow files, as this project exports them or Hugging Face datasets.

Rows with the columns of a shard come back as they were, but for their source; rows with a column
``messages`` are read as chat conversations; any other table needs the format ``mapping``. A row's
number, from 1, stands for its line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from retro_lightning.replay.formats import chat, draft
from retro_lightning.replay.formats.items import Attempt, BadRecordError, Item, Options, Reject
from retro_lightning.replay.formats.source import Source
from retro_lightning.replay.records import decode
from retro_lightning.replay.schema import SCHEMA
from retro_lightning.trajectory import Split, Trajectory, Truncation

_ROWS = 64
_OWN = {column.name for column in SCHEMA} - {"reflections", "outcome_return", "recorded_at"}


def read(source: Source, options: Options) -> Iterator[Item]:
    """Rows in the file's order."""
    counter = draft.AttemptCounter()
    try:
        for line, batch in batches(source):
            if set(batch.schema.names) >= _OWN:
                yield from _own(line, batch, options)
            elif "messages" in batch.schema.names:
                yield from _chat(line, batch, source, options, counter)
            else:
                reason = "it has no column 'messages': use --format mapping --mapping FILE"
                yield Reject(0, reason)
                return
    except pa.ArrowException as error:
        yield Reject(0, f"it is not a Parquet or Arrow file, or a damaged one: {_first(error)}")


def rows(source: Source) -> Iterator[tuple[int, dict[str, Any] | Reject]]:
    """Rows with their numbers, as plain data."""
    try:
        for line, batch in batches(source):
            for offset, row in enumerate(batch.to_pylist()):
                yield line + offset, row
    except pa.ArrowException as error:
        yield 0, Reject(0, f"it is not a Parquet or Arrow file, or a damaged one: {_first(error)}")


def batches(source: Source) -> Iterator[tuple[int, pa.RecordBatch]]:
    """A table in small pieces, each with the number of its first row."""
    line = 1
    for batch in _batches(source):
        yield line, batch
        line += len(batch)


def _batches(source: Source) -> Iterator[pa.RecordBatch]:
    if source.path.suffix != ".arrow":
        with pq.ParquetFile(source.path) as file:
            yield from file.iter_batches(batch_size=_ROWS)
        return
    with pa.memory_map(str(source.path)) as mapped:
        try:
            reader = pa.ipc.open_file(mapped)
            whole = (reader.get_batch(number) for number in range(reader.num_record_batches))
        except pa.ArrowInvalid:
            mapped.seek(0)
            whole = iter(pa.ipc.open_stream(mapped))
        for batch in whole:
            for start in range(0, len(batch), _ROWS):
                yield batch.slice(start, _ROWS)


def _own(line: int, batch: pa.RecordBatch, options: Options) -> Iterator[Item]:
    for offset, row in enumerate(batch.to_pylist()):
        try:
            # By way of plain data: other writers have other names and types inside lists.
            (made,) = decode(pa.RecordBatch.from_pylist([row], SCHEMA))
            yield Attempt(line + offset, _foreign(made, options))
        except (ValueError, TypeError) as error:
            yield Reject(line + offset, _first(error))


def _foreign(made: Trajectory, options: Options) -> Trajectory:
    texts = {name: getattr(made.task, name) for name in ("task_id", "family", "instruction")}
    texts |= {name: getattr(made, name) for name in ("behaviour_id", "run", "final_observation")}
    for name, value in texts.items():
        draft.text(value, name)
    draft.attempt_number(made.attempt, "attempt")
    for number, step in enumerate(made.steps):
        draft.text(step.observation, f"observation of step {number}")
        draft.text(step.action, f"action of step {number}")
    if made.truncation is not None and made.truncation not in get_args(Truncation):
        raise BadRecordError(f"truncation is {made.truncation!r}, which means nothing here")
    if made.task.split not in get_args(Split):
        raise BadRecordError(f"split is {made.task.split!r}, not train, val or test")
    return dataclasses.replace(
        made,
        source="import:parquet",
        behaviour_id=options.behaviour_id or made.behaviour_id,
        run=options.run or made.run,
    )


def _chat(
    line: int,
    batch: pa.RecordBatch,
    source: Source,
    options: Options,
    counter: draft.AttemptCounter,
) -> Iterator[Item]:
    for offset, row in enumerate(batch.to_pylist()):
        try:
            record = {name: value for name, value in row.items() if value is not None}
            made = chat.conversation("parquet", record, source, options, counter)
            yield Attempt(line + offset, made)
        except BadRecordError as error:
            yield Reject(line + offset, str(error))


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
