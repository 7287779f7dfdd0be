"""Behaviour half: rows from one store into another: filter, merge and dedupe.

Rows are copied as they stand, without being made into records. What the target holds already is
refused by identity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from retro_lightning.replay.identities import Identities
from retro_lightning.replay.index import Mask
from retro_lightning.replay.lock import locked
from retro_lightning.replay.store import ReplayStore

_ROWS = 8192
_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Copied:
    """What was copied.

    Attributes:
        copied: Trajectories that went in.
        duplicates: Trajectories that the target had already.
        conflicts: Trajectories whose identity the target had with another content; left out.
        damaged: Sentences about shards that could not be read; their rows are left out.
    """

    copied: int
    duplicates: int
    conflicts: int
    damaged: tuple[str, ...]


def copy(
    source: ReplayStore,
    target: ReplayStore,
    rows: Mask,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Copied:
    """Copy rows, in their order.

    Args:
        source: Where they are.
        target: Where they go.
        rows: Mask over the source's index.
        on_progress: Called with the number of rows that have been looked at.

    Raises:
        ValueError: If source and target are the same store.
    """
    if source.path.resolve() == target.path.resolve():
        raise ValueError(f"{source.path} cannot be copied into itself: give another store")
    counts = np.zeros(3, dtype=np.int64)
    damaged = list(source.damaged.values())
    with locked(target.path, "copy"):
        target.refresh()
        known = Identities.of(target)
        waiting: list[pa.RecordBatch] = []
        for start, batch in source.batches(damaged):
            here = rows[start : start + len(batch)]
            fresh, sums = _new(batch, here, known)
            counts += sums
            if len(fresh):
                waiting.append(batch.take(pa.array(fresh)))
            if _enough(waiting):
                target.adopt(waiting)
                waiting = []
            on_progress(start + len(batch))
        if waiting:
            target.adopt(waiting)
    target.refresh()
    copied, duplicates, conflicts = counts.tolist()
    return Copied(copied, duplicates, conflicts, tuple(damaged))


def first_of_each(store: ReplayStore) -> Mask:
    """Mask over the index: the first trajectory of every content.

    Task, steps, outcome, behaviour and source are content; run, attempt and policy version are not.
    """
    hashes = store.columns(("content_hash",))["content_hash"]
    values = np.array(hashes.to_numpy(zero_copy_only=False), dtype="S32")
    mask = np.zeros(len(values), dtype=np.bool_)
    mask[np.unique(values, return_index=True)[1]] = True
    return mask


def _new(
    batch: pa.RecordBatch, rows: Mask, known: Identities
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Rows of a batch that are new; and how many are new, duplicates and conflicts."""
    ids = batch.column("trajectory_id").to_pylist()
    hashes = batch.column("content_hash").to_pylist()
    fresh, duplicates, conflicts = [], 0, 0
    for row in np.flatnonzero(rows).tolist():
        stored = known.find(ids[row])
        if stored is None:
            known.add(ids[row], hashes[row])
            fresh.append(row)
        elif stored == hashes[row]:
            duplicates += 1
        else:
            conflicts += 1
    return np.array(fresh, dtype=np.int64), (len(fresh), duplicates, conflicts)


def _enough(waiting: list[pa.RecordBatch]) -> bool:
    rows, size = sum(map(len, waiting)), sum(batch.nbytes for batch in waiting)
    return rows >= _ROWS or size >= _BYTES
