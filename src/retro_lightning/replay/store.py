"""Behaviour half: an append-only dataset of trajectories in Arrow shards.

A store is a folder. A shard is published by two renames: first the data, then its checksum record;
it counts from the moment the record stands under its name and the folder is synced. What a killed
writer leaves behind is a file without a record, which nobody reads. Shards are never changed, and
there is no other file that would be: any number of processes may write and read at once.

A shard that is damaged is named in a warning and left out; the rest is served. Small shards are
merged by publishing a new one that names those it replaces (``compaction``).
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from retro_lightning.replay import compaction
from retro_lightning.replay.arrays import ShardArrays, TrainingArrays
from retro_lightning.replay.index import StoreIndex
from retro_lightning.replay.records import decode, encode
from retro_lightning.replay.schema import SCHEMA
from retro_lightning.replay.shard import (
    DATA,
    RECORD,
    NewerLayoutError,
    ShardRecord,
    generation,
    publish,
    published,
    read_record,
    standing_for,
    sync,
)
from retro_lightning.replay.shelf import Shelf
from retro_lightning.replay.upgrade import upgraded
from retro_lightning.trajectory import Trajectory

_SET_ASIDE, _QUARANTINE = "set_aside", "quarantine"


class ReplayStore:
    """Trajectories in a folder.

    Args:
        path: The folder.
        create: Make it if it is missing.

    Raises:
        FileNotFoundError: If it is missing and is not to be made.
        ValueError: If a shard is of a newer release.
    """

    def __init__(self, path: Path | str, *, create: bool = False) -> None:
        self.path = Path(path)
        if create:
            self.path.mkdir(parents=True, exist_ok=True)
        if not self.path.is_dir():
            raise FileNotFoundError(
                f"no replay store at {self.path}: give the folder of one, or make one with "
                "`retro-lightning rollout` or `retro-lightning replay import`"
            )
        self._shelf = Shelf(self.path)
        self._last_number = -1
        self._known: dict[str, ShardRecord] = {}
        self.damaged: dict[str, str] = {}
        self.refresh()

    def __len__(self) -> int:
        """Trajectories in the store, as of the last ``refresh``."""
        return int(self._starts[-1])

    # ------------------------------------------------------------------ writing
    def append(self, trajectories: Sequence[Trajectory]) -> str:
        """Publish trajectories as one shard; when this returns they are on disk.

        The shard's number follows from what this process has seen, and shards of equal number are
        in the order of their content: processes that refresh together and then append at the same
        time give the same order in every rerun, whoever is faster.

        Returns:
            The shard's name, to be found in ``snapshot`` after a ``refresh``, unless it has been
            merged with others by then.

        Raises:
            ValueError: If there are none.
            OSError: If the folder cannot be written.
        """
        if not trajectories:
            raise ValueError("cannot append a shard of no trajectories")
        self._last_number += 1
        name = publish(self.path, self._last_number, [encode(trajectories, time.time())], [])
        compaction.after_append(self.path)
        return name

    def adopt(self, batches: Sequence[pa.RecordBatch]) -> str:
        """Publish rows of other stores as one shard; see ``append``."""
        self._last_number += 1
        whole = pa.Table.from_batches(list(batches), SCHEMA).combine_chunks().to_batches()
        return publish(self.path, self._last_number, whole, [])

    # ------------------------------------------------------------------ generations
    def refresh(self) -> None:
        """See what has been published since; name shards that have been damaged since."""
        found: dict[str, ShardRecord] = {}
        damaged: dict[str, str] = {}
        for name in published(self.path):
            try:
                found[name] = read_record(self.path, name, self._known.get(name))
            except FileNotFoundError:  # another process has moved it
                continue
            except NewerLayoutError:
                raise
            except ValueError as error:
                damaged[name] = str(error)
        self._leave_out_damaged(found, damaged)
        replaced = {name for record in found.values() for name in record.replaces}
        self._known = found
        self._read(generation(found.values()))
        numbers = [record.number for record in found.values()]
        self._last_number = max([self._last_number, *numbers])
        previous, self.damaged = (
            self.damaged,
            {name: sentence for name, sentence in damaged.items() if name not in replaced},
        )
        for name in self.damaged.keys() - previous.keys():
            warnings.warn(f"left out: {self.damaged[name]}", stacklevel=2)

    def _leave_out_damaged(self, found: dict[str, ShardRecord], damaged: dict[str, str]) -> None:
        """Leave out what is read and is not as published; what it replaced may come back."""
        while True:
            before = len(found)
            for record in generation(found.values()):
                try:
                    self._shelf.check_columns(record)
                except ValueError as error:
                    del found[record.name]
                    if (self.path / f"{record.name}{RECORD}").exists():  # else it has been moved
                        damaged[record.name] = str(error)
            if len(found) == before:
                return

    def _read(self, records: list[ShardRecord]) -> None:
        self._records = records
        self._starts = np.cumsum([0, *(record.rows for record in records)])
        self._index: StoreIndex | None = None

    def snapshot(self) -> tuple[str, ...]:
        """Names of the shards that are read, in order: a generation of the store."""
        return tuple(record.name for record in self._records)

    @property
    def files(self) -> list[Path]:
        """The shards that are read, for other Arrow readers: not all that the folder may hold."""
        return [self.path / f"{record.name}{DATA}" for record in self._records]

    def restore(self, snapshot: Iterable[str]) -> None:
        """Return to a generation: newer shards are moved to ``set_aside/``, never read again.

        A compaction of nothing but the generation's shards may stand in for them: its rows are the
        same, in the same order. Several processes may return to the same generation at once.

        Raises:
            ValueError: If a shard of the snapshot is missing or damaged.
        """
        self.refresh()
        kept = standing_for(snapshot, self._known, self.damaged, self.path)
        for name in sorted((self._known.keys() | self.damaged.keys()) - kept):
            self._move(name, _SET_ASIDE)
        self._last_number = -1
        self.refresh()

    def view(self, snapshot: Iterable[str]) -> None:
        """Read a generation and nothing newer, until the next ``refresh``; nothing is moved.

        For a store that others may have appended to, with the same rows as ``restore`` leaves.

        Raises:
            ValueError: If a shard of the snapshot is missing or damaged.
        """
        self.refresh()
        kept = standing_for(snapshot, self._known, self.damaged, self.path)
        self._read(generation(self._known[name] for name in kept))

    def verify(self) -> list[str]:
        """Compare every shard with its checksum; one sentence per damaged shard."""
        damaged = dict(self.damaged)
        for record in self._records:
            try:
                self._shelf.verify(record)
            except ValueError as error:
                damaged[record.name] = str(error)
        return [damaged[name] for name in sorted(damaged)]

    def quarantine(self) -> list[str]:
        """Move damaged shards to ``quarantine/``, where nobody reads them; their sentences."""
        sentences = []
        for name in sorted({*self.damaged, *(record.name for record in self._records)}):
            try:
                self._shelf.verify(read_record(self.path, name))
            except ValueError as error:
                sentences.append(str(error))
                self._move(name, _QUARANTINE)
        self.refresh()
        return sentences

    def compact(self, *, purge: bool = False) -> compaction.Compaction:
        """Merge small shards, bring old ones up to the present layout; rows and order stay.

        Args:
            purge: Delete the shards that have been replaced. Checkpoints that name only some of
                them, and readers that have not opened them yet, lose them.
        """
        done = compaction.compact(self.path, purge=purge)
        self.refresh()
        return done

    # ------------------------------------------------------------------ reading
    @property
    def index(self) -> StoreIndex:
        """The index columns of all trajectories."""
        if self._index is None:
            self._index = StoreIndex.from_tables(map(self._shelf.index_columns, self._records))
        return self._index

    def read(self, rows: Sequence[int]) -> list[Trajectory]:
        """Trajectories by their rows in the index, in the order asked for.

        A shard is compared with its checksum when this process first reads from it.

        Raises:
            IndexError: If there is no such row.
            ValueError: If a shard is damaged.
        """
        found: dict[int, Trajectory] = {}
        for shard, places, inside in self._places(rows):
            taken = shard.batch.take(pa.array(inside))
            found.update(zip(places.tolist(), decode(taken), strict=True))
        return [found[place] for place in range(len(rows))]

    def arrays(self, rows: Sequence[int]) -> TrainingArrays:
        """Tokens, masks, rewards and log-probabilities of rows, without making records of them.

        Raises:
            IndexError: If there is no such row.
            ValueError: If a shard is damaged.
        """
        parts = [(shard, places, inside) for shard, places, inside in self._places(rows)]
        return TrainingArrays.gather(len(rows), parts)

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Top-level columns of all trajectories, in the order of the index.

        Raises:
            ValueError: If a shard is damaged.
        """
        schema = pa.schema([SCHEMA.field(name) for name in names])
        parts = [self._shelf.columns(record, names) for record in self._records]
        return pa.Table.from_batches(parts, schema=schema)

    def batches(self, damaged: list[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Whole shards, in order, with the row each begins at; for work on the whole store.

        Args:
            damaged: Gets a sentence for every shard that is damaged and therefore left out.
        """
        for record, start in zip(self._records, self._starts.tolist(), strict=False):
            try:
                self._shelf.check(record)
                yield start, upgraded(self._shelf.mapped(record))
            except ValueError as error:
                damaged.append(str(error))

    def _places(self, rows: Sequence[int]) -> Iterator[tuple[ShardArrays, np.ndarray, np.ndarray]]:
        """Per shard concerned: the shard, places in ``rows``, and rows inside the shard."""
        wanted = np.asarray(rows, dtype=np.int64)
        for row in wanted[(wanted < 0) | (wanted >= len(self))].tolist():
            raise IndexError(f"replay store {self.path} has no row {row}, only {len(self)}")
        shards = np.searchsorted(self._starts, wanted, side="right") - 1
        for number in np.unique(shards).tolist():
            record = self._records[number]
            self._shelf.check(record)
            places = np.flatnonzero(shards == number)
            yield self._shelf.shard(record), places, wanted[places] - self._starts[number]

    def _move(self, name: str, folder: str) -> None:
        aside = self.path / folder
        aside.mkdir(exist_ok=True)
        for ending in (RECORD, DATA):  # without its record a shard is unpublished
            with contextlib.suppress(FileNotFoundError):  # another process moved it
                (self.path / f"{name}{ending}").replace(aside / f"{name}{ending}")
        sync(self.path)
