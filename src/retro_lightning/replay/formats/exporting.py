"""Behaviour half: trajectories written for other tools: chat JSONL, Parquet, and sets for TRL.

A file is written under another name and renamed when it is whole.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retro_lightning.replay.formats.messages import calls_of
from retro_lightning.replay.index import Mask, StoreIndex
from retro_lightning.replay.records import decode
from retro_lightning.replay.schema import SCHEMA
from retro_lightning.replay.store import ReplayStore
from retro_lightning.trajectory import Step, Trajectory

_ROWS = 256
Message = dict[str, Any]


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        written: Records in the file.
        left_out: Trajectories without steps (faulted or outcome records), which chat, SFT and
            preference sets cannot hold.
        damaged: Sentences about shards that could not be read; their rows are left out.
    """

    written: int
    left_out: int
    damaged: tuple[str, ...]


def export(
    store: ReplayStore,
    rows: Mask,
    format_: str,
    output: Path,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Exported:
    """Write rows of a store.

    Args:
        store: The store.
        rows: Mask over its index.
        format_: One of ``WRITERS``.
        output: The file.
        on_progress: Called with the number of records written so far.

    Raises:
        FileExistsError: If there is such a file already.
    """
    if output.exists():
        raise FileExistsError(f"{output} exists already: give another --output, or remove it")
    damaged = list(store.damaged.values())
    empty = store.index.length == 0
    left_out = 0 if format_ == "parquet" else int((rows & empty).sum())
    temporary = output.with_name(f".{output.name}.tmp")
    try:
        if format_ == "parquet":
            written = _parquet(store, rows, temporary, damaged, on_progress)
        else:
            records = WRITERS[format_](store, rows & ~empty, damaged)
            written = _json_lines(records, temporary, on_progress)
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)
    return Exported(written, left_out, tuple(damaged))


def chat_record(made: Trajectory) -> dict[str, Any]:
    """A conversation that ``import --format chat`` reads back: words, rewards and outcome.

    Valid actions, log-probabilities and tokens have no place in it; Parquet keeps them.
    """
    record: dict[str, Any] = {
        "messages": _messages(made, tools=True),
        "reward": made.total_return,
        "success": made.success,
        "task_id": made.task.task_id,
        "family": made.task.family,
        "attempt": made.attempt,
        "model": made.behaviour_id,
    }
    if made.reflections:
        record["reflections"] = list(made.reflections)
    if made.truncation is not None and made.truncation != "fault":
        record["truncation"] = made.truncation
    if made.recorded_at is not None:
        record["created"] = made.recorded_at
    return record


def sft_record(made: Trajectory) -> dict[str, Any]:
    """Messages of plain text, for TRL's supervised fine-tuning; a thought precedes its action."""
    return {"messages": _messages(made, tools=False)}


def preference_record(better: Trajectory, worse: Trajectory) -> dict[str, Any]:
    """A pair for TRL's preference trainers: what both met, and how each went on."""
    one, other = (_messages(made, tools=False) for made in (better, worse))
    start = 0
    while one[start] == other[start] and one[start]["role"] != "assistant":
        start += 1
    return {"prompt": one[:start], "chosen": one[start:], "rejected": other[start:]}


def pairs(index: StoreIndex, rows: Mask) -> Iterator[tuple[int, int]]:
    """Better and worse attempt of one task: the best with the worst, the second best and so on.

    Each trajectory stands in one pair; pairs of equal return are left out, and in the export those
    of equal words.
    """
    by_task: dict[int, list[int]] = defaultdict(list)
    for row in np.flatnonzero(rows & ~index.faulted & (index.length > 0)).tolist():
        by_task[int(index.task_id[row])].append(row)
    for attempts in by_task.values():
        ordered = sorted(attempts, key=lambda row: (-index.returns[row], row))
        for better, worse in zip(ordered, reversed(ordered), strict=True):
            if index.returns[better] <= index.returns[worse]:
                break
            yield better, worse


def _messages(made: Trajectory, *, tools: bool) -> list[Message]:
    """The trajectory as chat messages.

    Args:
        made: The trajectory.
        tools: Write tool calls as such and thoughts beside actions; else all in plain text.
    """
    messages: list[Message] = []
    if made.task.instruction:
        seen = made.steps and made.steps[0].observation
        role = "system" if seen else "user"  # a conversation needs a user's word first
        messages.append({"role": role, "content": made.task.instruction})
    called = False
    for step in made.steps:
        if step.observation:
            role = "tool" if called and tools else "user"
            messages.append({"role": role, "content": step.observation})
        message = _assistant(step, tools=tools)
        called = "tool_calls" in message
        messages.append(message)
    if made.final_observation and tools:
        role = "tool" if called else "user"
        messages.append({"role": role, "content": made.final_observation})
    return messages


def _assistant(step: Step, *, tools: bool) -> Message:
    message: Message = {"role": "assistant"}
    if not tools:
        parts = [part for part in (step.thought, step.action) if part]
        return message | {"content": "\n".join(parts)}
    if step.thought is not None:
        message["reasoning_content"] = step.thought
    message["reward"] = step.reward
    calls = calls_of(step.action)
    if calls is None:
        return message | {"content": step.action}
    functions = [{"name": name, "arguments": arguments} for name, arguments in calls]
    entries = [
        {"id": f"call_{number}", "type": "function", "function": function}
        for number, function in enumerate(functions)
    ]
    return message | {"content": None, "tool_calls": entries}


def _chat(store: ReplayStore, rows: Mask, damaged: list[str]) -> Iterator[dict[str, Any]]:
    yield from map(chat_record, _trajectories(store, rows, damaged))


def _sft(store: ReplayStore, rows: Mask, damaged: list[str]) -> Iterator[dict[str, Any]]:
    yield from map(sft_record, _trajectories(store, rows & ~store.index.faulted, damaged))


def _preference(store: ReplayStore, rows: Mask, damaged: list[str]) -> Iterator[dict[str, Any]]:
    for pair in pairs(store.index, rows):
        try:
            better, worse = store.read(pair)
        except ValueError as error:
            if str(error) not in damaged:
                damaged.append(str(error))
            continue
        record = preference_record(better, worse)
        if record["chosen"] != record["rejected"]:
            yield record


WRITERS: dict[str, Callable[[ReplayStore, Mask, list[str]], Iterator[dict[str, Any]]]] = {
    "chat": _chat,
    "preference": _preference,
    "sft": _sft,
}
"""Formats of JSON lines, by name."""


def _trajectories(store: ReplayStore, rows: Mask, damaged: list[str]) -> Iterator[Trajectory]:
    for start, batch in store.batches(damaged):
        chosen = np.flatnonzero(rows[start : start + len(batch)])
        for first in range(0, len(chosen), _ROWS):
            yield from decode(batch.take(pa.array(chosen[first : first + _ROWS])))


def _json_lines(
    records: Iterator[dict[str, Any]], path: Path, on_progress: Callable[[int], None]
) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for count, record in enumerate(records, start=1):
            print(json.dumps(record, ensure_ascii=False), file=file)
            on_progress(count)
    return count


def _parquet(
    store: ReplayStore,
    rows: Mask,
    path: Path,
    damaged: list[str],
    on_progress: Callable[[int], None],
) -> int:
    count = 0
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for start, batch in store.batches(damaged):
            chosen = np.flatnonzero(rows[start : start + len(batch)])
            writer.write_batch(batch.take(pa.array(chosen)))
            count += len(chosen)
            on_progress(count)
    return count
