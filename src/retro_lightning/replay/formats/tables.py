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
_NOT_PLAIN = (ValueError, TypeError, ArithmeticError, LookupError, NotImplementedError)
"""What Arrow raises for a value that Python cannot hold."""
_OWN = {column.name for column in SCHEMA} - {"reflections", "outcome_return", "recorded_at"}


def read(source: Source, options: Options) -> Iterator[Item]:
    """Rows in the file's order."""
    counter = draft.AttemptCounter()
    kind = ""
    for line, row in rows(source):
        try:
            if isinstance(row, Reject):
                yield row
                continue
            kind = kind or _kind(row)
            if not kind:
                reason = "it has no column 'messages': use --format mapping --mapping FILE"
                yield Reject(0, reason)
                return
            if kind == "own":
                yield Attempt(line, _own(row, options))
            else:
                record = {name: value for name, value in row.items() if value is not None}
                made = chat.conversation("parquet", record, source, options, counter)
                yield Attempt(line, made)
        except (ValueError, TypeError, OverflowError) as error:
            yield Reject(line, _first(error))


def rows(source: Source) -> Iterator[tuple[int, dict[str, Any] | Reject]]:
    """Rows with their numbers, as plain data; what is damaged as rejects.

    Nothing is looked at before Arrow has checked it: a wrong offset would lead out of the memory of
    the file, which ends the process.
    """
    line = 1
    try:
        for piece in _pieces(source):
            if isinstance(piece, _Damaged):
                yield line, Reject(line, piece.reason(line))
                line += piece.rows
                continue
            for start in range(0, len(piece), _ROWS):
                yield from _plain(line + start, piece.slice(start, _ROWS))
            line += len(piece)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        what = "it is not a Parquet or Arrow file, or a damaged one"
        where = f"what follows row {line - 1} cannot be read: " if line > 1 else ""
        line = line if line > 1 else 0
        yield line, Reject(line, f"{where}{what}: {_first(error)}; write it again")


@dataclasses.dataclass(frozen=True)
class _Damaged:
    """Rows that are not looked at."""

    rows: int
    error: str

    def reason(self, first: int) -> str:
        last = first + self.rows - 1
        return f"rows {first} to {last} are damaged ({self.error}): write the file again"


def _pieces(source: Source) -> Iterator[pa.RecordBatch | _Damaged]:
    """A table in pieces that have been checked."""
    if source.path.suffix != ".arrow":
        with pq.ParquetFile(source.path) as file:
            for group in range(file.num_row_groups):
                yield from _row_group(file, group)
        return
    with pa.memory_map(str(source.path)) as mapped:
        try:
            reader = pa.ipc.open_file(mapped)
            whole = (reader.get_batch(number) for number in range(reader.num_record_batches))
        except pa.ArrowInvalid:
            mapped.seek(0)
            whole = iter(pa.ipc.open_stream(mapped))
        yield from map(_checked, whole)


def _row_group(file: pq.ParquetFile, group: int) -> Iterator[pa.RecordBatch | _Damaged]:
    left = file.metadata.row_group(group).num_rows
    try:
        for batch in file.iter_batches(batch_size=_ROWS, row_groups=[group]):
            left -= len(batch)
            yield _checked(batch)
    except (pa.ArrowException, OSError) as error:
        yield _Damaged(left, _first(error))


def _checked(batch: pa.RecordBatch) -> pa.RecordBatch | _Damaged:
    """The batch if all its offsets and codes are sound; texts may still not be UTF-8."""
    try:
        for column in batch.columns:
            try:
                column.validate(full=True)
            except pa.ArrowInvalid:
                # Only texts that are not UTF-8? Then their rows can be told one by one.
                column.view(_bytes(column.type)).validate(full=True)
    except pa.ArrowException as error:
        return _Damaged(len(batch), _first(error))
    return batch


def _bytes(kind: pa.DataType) -> pa.DataType:
    """A type with bytes in the place of text."""
    if pa.types.is_string(kind):
        return pa.binary()
    if pa.types.is_large_string(kind):
        return pa.large_binary()
    if pa.types.is_list(kind):
        return pa.list_(_bytes(kind.value_type))
    if pa.types.is_large_list(kind):
        return pa.large_list(_bytes(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _bytes(field.type)) for field in kind])
    return kind


def _plain(line: int, batch: pa.RecordBatch) -> Iterator[tuple[int, dict[str, Any] | Reject]]:
    try:
        yield from enumerate(batch.to_pylist(), start=line)
    except _NOT_PLAIN:
        for number in range(line, line + len(batch)):
            try:
                (row,) = batch.slice(number - line, 1).to_pylist()
                yield number, row
            except UnicodeDecodeError as error:
                bad = f"byte 0x{error.object[error.start]:02x} at position {error.start}"
                yield number, Reject(number, f"a text is not UTF-8 ({bad}): write it as UTF-8")
            except _NOT_PLAIN as error:
                yield number, Reject(number, f"a value cannot be read: {_first(error)}")


def _kind(row: dict[str, Any]) -> str:
    """Whether a table has the columns of a shard or of conversations; empty = neither."""
    return "own" if row.keys() >= _OWN else "chat" if "messages" in row else ""


def _own(row: dict[str, Any], options: Options) -> Trajectory:
    # By way of plain data: other writers have other names and types inside lists.
    (made,) = decode(pa.RecordBatch.from_pylist([row], SCHEMA))
    return _foreign(made, options)


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


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
