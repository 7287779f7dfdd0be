"""Behaviour half: shards opened when they are needed, mapped into memory and compared once."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from pathlib import Path

import pyarrow as pa

from retro_lightning.replay.arrays import ShardArrays
from retro_lightning.replay.index import INDEX_SCHEMA
from retro_lightning.replay.shard import DATA, ShardRecord, remedy
from retro_lightning.replay.upgrade import columns

_OPEN_SHARDS = 256
"""Mappings that are kept, about 0.2 MiB of memory each."""


class Shelf:
    """The data files of a store.

    Args:
        folder: The store.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: OrderedDict[str, ShardArrays] = OrderedDict()
        self._verified: set[str] = set()

    def check(self, record: ShardRecord) -> None:
        """Compare a shard with its checksum, unless this process has done so.

        Raises:
            ValueError: If they differ.
        """
        if record.name not in self._verified:
            self.verify(record)

    def verify(self, record: ShardRecord) -> None:
        """Compare a shard with its checksum.

        Raises:
            ValueError: If they differ.
        """
        with self._file(record).open("rb") as data:
            digest = hashlib.file_digest(data, "sha256").hexdigest()
        if digest != record.sha256:
            raise self._damaged(record, "its content does not match its checksum")
        self._verified.add(record.name)

    def index_columns(self, record: ShardRecord) -> pa.Table:
        """A shard's index columns.

        Raises:
            ValueError: If it is damaged.
        """
        found = pa.Table.from_batches([columns(self.mapped(record), INDEX_SCHEMA.names)])
        try:
            found.validate(full=True)
        except pa.ArrowInvalid as error:
            raise self._damaged(record, str(error)) from None
        return found.cast(INDEX_SCHEMA)

    def shard(self, record: ShardRecord) -> ShardArrays:
        """A shard's rows; the least recently used mapping is closed."""
        shard = self._open.pop(record.name, None)
        if shard is None:
            shard = ShardArrays(self.mapped(record))
            if len(self._open) >= _OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open[record.name] = shard
        return shard

    def mapped(self, record: ShardRecord) -> pa.RecordBatch:
        """A shard's rows, mapped into memory, and nothing kept of them.

        Raises:
            ValueError: If it is damaged.
        """
        try:
            file = pa.memory_map(str(self._file(record)))
            batch = pa.ipc.open_file(file).get_batch(0)
        except (pa.ArrowInvalid, OSError) as error:
            raise self._damaged(record, str(error)) from None
        if len(batch) != record.rows:
            raise self._damaged(record, f"{len(batch)} rows, {record.rows} were published")
        return batch

    def _file(self, record: ShardRecord) -> Path:
        return self._folder / f"{record.name}{DATA}"

    def _damaged(self, record: ShardRecord, reason: str) -> ValueError:
        file = self._file(record)
        return ValueError(f"shard {file} is damaged ({reason}): {remedy(self._folder)}")
