"""Behaviour half: an append-only dataset of trajectories in Arrow shards.

A store is a folder. A shard is published by two renames: first the data, then its checksum record;
it counts from the moment the record stands under its name and the folder is synced. What a killed
writer leaves behind is a file without a record, which nobody reads. Shards are never changed, and
there is no other file that would be: any number of processes may write and read at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from retro_lightning.replay.index import INDEX_SCHEMA, StoreIndex
from retro_lightning.replay.records import SCHEMA, decode, encode
from retro_lightning.trajectory import SCHEMA_VERSION, Trajectory

_DATA, _RECORD = ".arrow", ".json"
_SET_ASIDE = "set_aside"
_OPEN_SHARDS = 64
_NAME = re.compile(r"\d{8}-[0-9a-f-]+")


@dataclass(frozen=True)
class ShardRecord:
    """What is published with a shard.

    Attributes:
        name: Name of the shard without ending.
        rows: Trajectories in it.
        size: Bytes of its data file.
        sha256: Checksum of its data file.
        schema: Version of the record layout.
    """

    name: str
    rows: int
    size: int
    sha256: str
    schema: int


class ReplayStore:
    """Trajectories in a folder.

    Args:
        path: The folder.
        create: Make it if it is missing.

    Raises:
        FileNotFoundError: If it is missing and is not to be made.
        ValueError: If a shard's data is missing, cut short, or of a newer release.
    """

    def __init__(self, path: Path | str, *, create: bool = False) -> None:
        self.path = Path(path)
        if create:
            self.path.mkdir(parents=True, exist_ok=True)
        if not self.path.is_dir():
            raise FileNotFoundError(
                f"no replay store at {self.path}: give the folder of one, or make one with "
                "`retro-lightning rollout`"
            )
        self._open: OrderedDict[str, pa.RecordBatch] = OrderedDict()
        self._verified: set[str] = set()
        self._last_number = -1
        self._records: list[ShardRecord] = []
        self._starts = np.zeros(1, dtype=np.int64)
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
            The shard's name, to be found in ``snapshot`` after a ``refresh``.

        Raises:
            ValueError: If there are none.
        """
        if not trajectories:
            raise ValueError("cannot append a shard of no trajectories")
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, SCHEMA) as writer:
            writer.write_batch(encode(trajectories))
        data = sink.getvalue()
        digest = hashlib.sha256(data).hexdigest()
        record = {
            "rows": len(trajectories),
            "size": data.size,
            "sha256": digest,
            "schema": SCHEMA_VERSION,
        }
        self._last_number = max([self._last_number, *map(_number, self.snapshot())]) + 1
        name = f"{self._last_number:08d}-{digest[:8]}-{uuid.uuid4().hex[:8]}"
        _publish(self.path / f"{name}{_DATA}", data)
        _publish(self.path / f"{name}{_RECORD}", json.dumps(record).encode())
        return name

    # ------------------------------------------------------------------ generations
    def refresh(self) -> None:
        """See what has been published since."""
        self._records = [self._record(name) for name in self._published()]
        self._starts = np.cumsum([0, *(record.rows for record in self._records)])
        self._index: StoreIndex | None = None

    def snapshot(self) -> tuple[str, ...]:
        """Names of the published shards, sorted: a generation of the store."""
        return tuple(record.name for record in self._records)

    def restore(self, snapshot: Iterable[str]) -> None:
        """Return to a generation: newer shards are moved to ``set_aside/``, never read again.

        Several processes may return to the same generation at once.

        Raises:
            ValueError: If a shard of the snapshot is missing.
        """
        wanted = set(snapshot)
        present = set(self._published())
        missing = sorted(wanted - present)
        if missing:
            raise ValueError(
                f"replay store {self.path}: shard {missing[0]} of the checkpoint's snapshot is "
                "missing; restore the folder or start the run anew under another name"
            )
        for name in sorted(present - wanted):
            aside = self.path / _SET_ASIDE
            aside.mkdir(exist_ok=True)
            for ending in (_RECORD, _DATA):  # without its record a shard is unpublished
                with contextlib.suppress(FileNotFoundError):  # another process moved it
                    (self.path / f"{name}{ending}").replace(aside / f"{name}{ending}")
        self._last_number = -1
        self.refresh()

    def verify(self) -> list[str]:
        """Compare every shard with its checksum; one sentence per damaged shard."""
        damaged = []
        for record in self._records:
            try:
                self._verify(record)
            except ValueError as error:
                damaged.append(str(error))
        return damaged

    # ------------------------------------------------------------------ reading
    @property
    def index(self) -> StoreIndex:
        """The index columns of all trajectories."""
        if self._index is None:
            tables = [self._index_columns(record) for record in self._records]
            self._index = StoreIndex.from_table(
                pa.concat_tables(tables) if tables else INDEX_SCHEMA.empty_table()
            )
        return self._index

    def read(self, rows: Sequence[int]) -> list[Trajectory]:
        """Trajectories by their rows in the index, in the order asked for.

        A shard is compared with its checksum when this process first reads from it.

        Raises:
            IndexError: If there is no such row.
            ValueError: If a shard is damaged.
        """
        wanted = np.asarray(rows, dtype=np.int64)
        for row in wanted[(wanted < 0) | (wanted >= len(self))].tolist():
            raise IndexError(f"replay store {self.path} has no row {row}, only {len(self)}")
        shards = np.searchsorted(self._starts, wanted, side="right") - 1
        found: dict[int, Trajectory] = {}
        for shard in np.unique(shards).tolist():
            record = self._records[shard]
            if record.name not in self._verified:
                self._verify(record)
            places = np.flatnonzero(shards == shard)
            taken = self._batch(record).take(pa.array(wanted[places] - self._starts[shard]))
            found.update(zip(places.tolist(), decode(taken), strict=True))
        return [found[place] for place in range(len(wanted))]

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Top-level columns of all trajectories, in the order of the index; for whole-store work."""
        schema = pa.schema([SCHEMA.field(name) for name in names])
        parts = [self._batch(record).select(list(names)) for record in self._records]
        return pa.Table.from_batches(parts, schema=schema)

    def _published(self) -> list[str]:
        records = self.path.glob(f"*{_RECORD}")
        return sorted(path.stem for path in records if _NAME.fullmatch(path.stem))

    def _record(self, name: str) -> ShardRecord:
        path = self.path / f"{name}{_RECORD}"
        try:
            record = ShardRecord(name=name, **json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"checksum record {path} is damaged: {error}; restore it from a backup, or move "
                "the shard and its record out of the store to go on without it"
            ) from None
        if record.schema > SCHEMA_VERSION:
            raise ValueError(f"shard {path} was written by a newer release: upgrade this one")
        data = path.with_suffix(_DATA)
        size = data.stat().st_size if data.exists() else 0
        if size != record.size:
            raise ValueError(
                f"shard {data} has {size} bytes, {record.size} were published: restore it from a "
                "backup, or move it and its record out of the store to go on without it"
            )
        return record

    def _verify(self, record: ShardRecord) -> None:
        file = self.path / f"{record.name}{_DATA}"
        with file.open("rb") as data:
            digest = hashlib.file_digest(data, "sha256").hexdigest()
        if digest != record.sha256:
            raise _damaged(file, "its content does not match its checksum")
        self._verified.add(record.name)

    def _index_columns(self, record: ShardRecord) -> pa.Table:
        columns = pa.Table.from_batches([self._batch(record).select(INDEX_SCHEMA.names)])
        try:
            columns.validate(full=True)
        except pa.ArrowInvalid as error:
            raise _damaged(self.path / f"{record.name}{_DATA}", str(error)) from None
        return columns.cast(INDEX_SCHEMA)

    def _batch(self, record: ShardRecord) -> pa.RecordBatch:
        """The shard's rows, mapped into memory; the least recently used mapping is closed."""
        batch = self._open.pop(record.name, None)
        if batch is None:
            file = self.path / f"{record.name}{_DATA}"
            try:
                batch = pa.ipc.open_file(pa.memory_map(str(file))).get_batch(0)
            except (pa.ArrowInvalid, OSError) as error:
                raise _damaged(file, str(error)) from None
            if len(self._open) >= _OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open[record.name] = batch
        return batch


def _number(name: str) -> int:
    return int(name.split("-")[0])


def _damaged(file: Path, reason: str) -> ValueError:
    return ValueError(
        f"shard {file} is damaged ({reason}): restore it from a backup, or move it and its record "
        "out of the store to go on without it"
    )


def _publish(path: Path, data: bytes | pa.Buffer) -> None:
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
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
