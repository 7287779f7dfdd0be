"""Data half: a shard's record, its place among the others, and how files are published.

A shard's name begins with its number and a hash of the identities and contents in it, whenever they
were recorded: a run that is repeated publishes shards in the same order. The last part is random.
A compaction shard's name ends in ``-c``; its record names the shards that it replaces and the place
in the order that was theirs. Whatever a store's folder holds, ``generation`` says what is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from retro_lightning.replay.schema import INDEX_FIELDS, SCHEMA
from retro_lightning.trajectory import SCHEMA_VERSION

DATA, RECORD = ".arrow", ".json"
CHECKED = ("trajectory_id", "content_hash", *(entry.name for entry in INDEX_FIELDS))
"""Columns that are read without the rest of a shard, and have a checksum of their own."""
_NAME = re.compile(r"\d{8}-[0-9a-f-]+")
_COMPACTED = "-c"


class NewerLayoutError(ValueError):
    """A shard that only a newer release can read."""


@dataclass(frozen=True)
class ShardRecord:
    """What is published with a shard.

    Attributes:
        name: Name of the shard without ending.
        rows: Trajectories in it.
        size: Bytes of its data file.
        sha256: Checksum of its data file.
        schema: Version of the record layout.
        place: Name whose place in the order it has; None = its own.
        replaces: Shards whose rows it holds, and earlier compactions of them.
        columns: CRC-32 of each column that is read without the rest (``checksums``); none in
            records of before 2026-11-25.
        frame: Where the file's rows begin and end, in bytes, and the CRC-32 of what is outside:
            what Arrow must find intact before it can be let near the rows.
    """

    name: str
    rows: int
    size: int
    sha256: str
    schema: int
    place: str | None = None
    replaces: tuple[str, ...] = ()
    columns: Mapping[str, int] = field(default_factory=dict)
    frame: tuple[int, int, int] = (0, 0, 0)

    @property
    def order(self) -> str:
        """What shards are sorted by."""
        return self.place or self.name

    @property
    def number(self) -> int:
        """Number in the name."""
        return int(self.name.split("-")[0])

    @property
    def originals(self) -> frozenset[str]:
        """The shards, as they were appended, whose rows it holds."""
        if not self.replaces:
            return frozenset((self.name,))
        return frozenset(name for name in self.replaces if not name.endswith(_COMPACTED))


def published(folder: Path) -> list[str]:
    """Names of the shards that have a record, sorted."""
    records = folder.glob(f"*{RECORD}")
    return sorted(path.stem for path in records if _NAME.fullmatch(path.stem))


def read_record(folder: Path, name: str, known: ShardRecord | None = None) -> ShardRecord:
    """The record of a published shard, whose data file has the size it was published with.

    Args:
        folder: The store.
        name: Name of the shard.
        known: The record as read before; records never change.

    Raises:
        ValueError: If record or data are damaged; the message says which.
        NewerLayoutError: If the shard was written by a newer release.
    """
    record = _parsed(folder, name) if known is None else known
    data = folder / f"{name}{DATA}"
    size = data.stat().st_size if data.exists() else 0
    if size != record.size:
        raise ValueError(
            f"shard {data} has {size} bytes, {record.size} were published: {remedy(folder)}"
        )
    return record


def _parsed(folder: Path, name: str) -> ShardRecord:
    path = folder / f"{name}{RECORD}"
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for key in ("replaces", "frame"):
            if key in values:
                values[key] = tuple(values[key])
        record = ShardRecord(name=name, **values)
        numbers = (record.rows, record.size, record.schema, *dict(record.columns).values())
        if len(record.frame) != 3 or not all(isinstance(n, int) for n in (*numbers, *record.frame)):
            raise TypeError("rows, size, schema, columns and three of frame must be whole numbers")
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"checksum record {path} is damaged: {error}; {remedy(folder)}") from None
    if record.schema > SCHEMA_VERSION:
        raise NewerLayoutError(f"shard {path} was written by a newer release: upgrade this one")
    return record


def checksums(batch: pa.RecordBatch, names: Iterable[str]) -> dict[str, int]:
    """CRC-32 of columns as they lie in a shard's file."""
    found = {}
    for name in names:
        if name not in batch.schema.names:  # an older layout
            continue
        found[name] = 0
        for buffer in batch.column(name).buffers():
            if buffer is not None:
                found[name] = zlib.crc32(buffer, found[name])
    return found


def _rows_at(data: pa.Buffer, batch: pa.RecordBatch) -> tuple[int, int]:
    """Where a batch's rows begin and end in the file that it was read from, in bytes."""
    buffers = [b for column in batch.columns for b in column.buffers() if b is not None and b.size]
    start = min(buffer.address for buffer in buffers)
    end = max(buffer.address + buffer.size for buffer in buffers)
    return start - data.address, end - data.address


def generation(records: Iterable[ShardRecord]) -> list[ShardRecord]:
    """The shards that are read, in order: all that no other one replaces."""
    records = list(records)
    replaced = {name for record in records for name in record.replaces}
    return sorted((r for r in records if r.name not in replaced), key=lambda r: r.order)


def standing_for(
    snapshot: Iterable[str],
    known: Mapping[str, ShardRecord],
    damaged: Mapping[str, str],
    folder: Path,
) -> set[str]:
    """Names of the shards that have a snapshot's rows.

    In the place of a shard may stand a compaction of nothing but the snapshot's shards, or one of
    the same number and contents: a history that was made a second time.

    Args:
        snapshot: Names of the snapshot's shards.
        known: The undamaged shards by name.
        damaged: What is wrong with the others.
        folder: The store, for messages.

    Raises:
        ValueError: If a shard of the snapshot is missing or damaged.
    """
    twins = {_stem(name): name for name in known}
    wanted = {name if name in known else twins.get(_stem(name), name) for name in snapshot}
    originals = {name for name in wanted if name not in known}
    for name in wanted & known.keys():
        originals |= known[name].originals
    kept = {
        name for name, record in known.items() if name in wanted or record.originals <= originals
    }
    held = {name for each in kept for name in known[each].originals}
    for name in sorted(wanted - kept - held):
        if name in damaged:
            raise ValueError(f"the checkpoint's snapshot needs a shard: {damaged[name]}")
        raise ValueError(
            f"replay store {folder}: shard {name} of the checkpoint's snapshot is missing; restore "
            "the folder or start the run anew under another name"
        )
    return kept


def _stem(name: str) -> str:
    """A name without its random part: number, contents, and whether it is a compaction."""
    number, contents, *rest = name.split("-")
    return "-".join((number, contents, *rest[1:]))


def publish(
    folder: Path, number: int, batches: Iterable[pa.RecordBatch], replaced: list[ShardRecord]
) -> str:
    """Publish rows as one shard; when this returns they are on disk.

    Args:
        folder: The store.
        number: First part of the name.
        batches: The rows; one batch in a shard.
        replaced: Shards whose rows these are, in order; none = new rows.

    Returns:
        The shard's name.

    Raises:
        OSError: If the folder cannot be written.
    """
    sink = pa.BufferOutputStream()
    rows, content = 0, hashlib.sha256()
    with pa.ipc.new_file(sink, SCHEMA) as writer:
        for batch in batches:
            writer.write_batch(batch)
            rows += len(batch)
            for column in ("trajectory_id", "content_hash"):
                content.update("".join(batch.column(column).to_pylist()).encode())
    data = sink.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    record: dict[str, Any] = {"rows": rows, "size": data.size, "sha256": digest}
    record["schema"] = SCHEMA_VERSION
    written = pa.ipc.open_file(data).get_batch(0)
    record["columns"] = checksums(written, CHECKED)
    start, end = _rows_at(data, written)
    record["frame"] = (start, end, zlib.crc32(data[end:], zlib.crc32(data[:start])))
    name = f"{number:08d}-{content.hexdigest()[:8]}-{uuid.uuid4().hex[:8]}"
    if replaced:
        name += _COMPACTED
        names = {shard.name for shard in replaced} | {n for s in replaced for n in s.replaces}
        record |= {"place": replaced[0].order, "replaces": sorted(names)}
    try:
        _write(folder / f"{name}{DATA}", data)
        _write(folder / f"{name}{RECORD}", json.dumps(record).encode())
    except OSError as error:
        raise OSError(
            f"replay store {folder} cannot be written ({error.strerror}), and these {rows} "
            "trajectories are not in it: free space, or give a folder that you may write to"
        ) from None
    return name


def remedy(folder: Path) -> str:
    """What to do about a damaged shard."""
    return (
        "restore it from a backup, or go on without it: "
        f"`retro-lightning replay verify --store {folder} --quarantine`"
    )


def _write(path: Path, data: bytes | pa.Buffer) -> None:
    """Write a file under a temporary name, sync it, give it its name, sync the folder."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def sync(folder: Path) -> None:
    """Have the folder's own list of files on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
