"""Behaviour half: merges small shards into one that names those it replaces.

The new shard has the rows of the old ones in their order, and their place among the others. It is
published like any shard, and counts instead of them from that moment: a kill before leaves the old,
a kill after the new. The old ones stay until they are purged, because checkpoints and readers may
name them. One compaction works on a store at a time; appending goes on meanwhile.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from retro_lightning.replay.lock import locked
from retro_lightning.replay.schema import SCHEMA
from retro_lightning.replay.shard import (
    DATA,
    RECORD,
    ShardRecord,
    generation,
    publish,
    published,
    read_record,
    sync,
)
from retro_lightning.replay.shelf import Shelf
from retro_lightning.replay.upgrade import upgraded
from retro_lightning.trajectory import SCHEMA_VERSION

_SMALL_ROWS, _SMALL_BYTES = 2048, 16 * 2**20
_LARGE_ROWS, _LARGE_BYTES = 8192, 64 * 2**20
_ABANDONED = 3600.0
"""Seconds after which a file without a record is no writer's any more."""
_MANY = 64
"""Small shards in a row after which ``append`` merges them."""


@dataclass(frozen=True)
class Compaction:
    """What a compaction did.

    Attributes:
        before: Shards that were read before.
        after: Shards that are read now.
        replaced: Shards that are no longer read, but still there.
        replaced_bytes: What they take on disk.
        purged: Shards that were deleted.
        damaged: A sentence for each shard whose content does not match its checksum: it was not
            merged, nor were its neighbours, and what it replaced was not deleted.
    """

    before: int
    after: int
    replaced: int
    replaced_bytes: int
    purged: int
    damaged: tuple[str, ...] = ()


def compact(folder: Path, *, purge: bool) -> Compaction:
    """Merge small shards in a row, and rewrite those of an older layout.

    Args:
        folder: The store.
        purge: Delete what has been replaced, now or earlier.

    Raises:
        ValueError: If another compaction or an import is at work.
    """
    with locked(folder, "compaction"):
        before = generation(_records(folder))
        damaged = [sentence for group in _groups(before) for sentence in _merge(folder, group)]
        records = _records(folder)
        after = generation(records)
        old = [record for record in records if record not in after]
        if purge:
            unsound, kept = _unsound(folder, after)
            damaged += unsound
            old = [record for record in old if record.name not in kept]
            for record in old:
                (folder / f"{record.name}{RECORD}").unlink(missing_ok=True)
            sync(folder)
            for record in old:
                (folder / f"{record.name}{DATA}").unlink(missing_ok=True)
            _sweep(folder)
        left = [] if purge else old
        damaged = list(dict.fromkeys(damaged))
        return Compaction(
            before=len(before),
            after=len(after),
            replaced=len(left),
            replaced_bytes=sum(record.size for record in left),
            purged=len(old) - len(left),
            damaged=tuple(damaged),
        )


def _unsound(folder: Path, records: list[ShardRecord]) -> tuple[list[str], set[str]]:
    """Of compactions: sentences on damaged ones, and the shards that are still needed for them."""
    shelf, sentences, needed = Shelf(folder), [], set()
    for record in records:
        if record.replaces:
            try:
                shelf.verify(record)
            except (ValueError, OSError) as error:
                sentences.append(str(error))
                needed |= set(record.replaces)
    return sentences, needed


def _sweep(folder: Path) -> None:
    """Delete what killed writers left behind: files without a record that nobody works on."""
    names = set(published(folder))
    latest = time.time() - _ABANDONED
    for path in [*folder.glob(f"*{DATA}"), *folder.glob(".*.tmp")]:
        if path.stem not in names and path.stat().st_mtime < latest:
            path.unlink(missing_ok=True)


def after_append(folder: Path) -> None:
    """Merge the last shards once many small ones have come together; never wait for a lock."""
    names = published(folder)
    if len(names) % _MANY:  # a cheap look, and seldom more
        return
    records = generation(_records(folder))
    tail = next((n for n, r in enumerate(reversed(records)) if not _small(r)), len(records))
    if tail >= _MANY:
        with contextlib.suppress(ValueError, OSError), locked(folder, "compaction"):
            for group in _groups(generation(_records(folder))):
                _merge(folder, group)


def _records(folder: Path) -> list[ShardRecord]:
    """Records of the undamaged shards."""
    records = []
    for name in published(folder):
        with contextlib.suppress(ValueError, FileNotFoundError):
            records.append(read_record(folder, name))
    return records


def _small(record: ShardRecord) -> bool:
    return record.rows < _SMALL_ROWS and record.size < _SMALL_BYTES


def _groups(records: list[ShardRecord]) -> Iterator[list[ShardRecord]]:
    """Small shards in a row, up to the size of a large one; old layouts also on their own."""
    group: list[ShardRecord] = []
    for record in [*records, None]:
        rows = sum(shard.rows for shard in group)
        size = sum(shard.size for shard in group)
        full = rows >= _LARGE_ROWS or size >= _LARGE_BYTES
        if group and (record is None or not _small(record) or full):
            if len(group) > 1 or group[0].schema < SCHEMA_VERSION:
                yield group
            group = []
        if record is not None and _small(record):
            group.append(record)
        elif record is not None and record.schema < SCHEMA_VERSION:
            yield [record]


def _merge(folder: Path, group: list[ShardRecord]) -> list[str]:
    """Publish a group as one shard, unless one of it is damaged: what is wrong with which."""
    shelf, batches, damaged = Shelf(folder), [], []
    for record in group:
        try:
            shelf.verify(record)  # a new checksum must never make a damaged row look sound
            batches.append(upgraded(shelf.mapped(record)))
        except ValueError as error:
            damaged.append(str(error))
    if not damaged:
        whole = pa.Table.from_batches(batches, SCHEMA).combine_chunks().to_batches()
        publish(folder, group[0].number, whole, group)
    return damaged
