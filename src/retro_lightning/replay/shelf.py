"""Behaviour half: shards opened when they are needed, mapped into memory and compared once."""

from __future__ import annotations

import hashlib
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from retro_lightning.replay.arrays import ShardArrays
from retro_lightning.replay.index import INDEX_SCHEMA
from retro_lightning.replay.shard import DATA, ShardRecord, checksums, remedy
from retro_lightning.replay.upgrade import columns

_OPEN_SHARDS = 256
"""Mappings that are kept, about 0.2 MiB of memory each."""
_MISMATCH = "its content does not match its checksum"


class Shelf:
    """The data files of a store.

    Args:
        folder: The store.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: OrderedDict[str, ShardArrays] = OrderedDict()
        self._verified: set[str] = set()
        self._compared: set[str] = set()

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
            raise self._damaged(record, _MISMATCH)
        self._verified.add(record.name)

    def check_columns(self, record: ShardRecord) -> None:
        """Compare the columns that are read without the rest, unless this process has done so.

        A record that lacks their checksums has the whole shard compared.

        Raises:
            ValueError: If they differ.
        """
        if record.name in self._compared:
            return
        if record.columns:
            frame, found = record.frame, self._frame(record)
            if found != frame or checksums(self.mapped(record), record.columns) != record.columns:
                raise self._damaged(record, _MISMATCH)
        else:
            self.check(record)
        self._compared.add(record.name)

    def columns(self, record: ShardRecord, names: Sequence[str]) -> pa.RecordBatch:
        """Some of a shard's top-level columns.

        Raises:
            ValueError: If it is damaged.
        """
        if set(names) <= record.columns.keys():
            self.check_columns(record)
        else:
            self.check(record)
        return columns(self.mapped(record), names)

    def index_columns(self, record: ShardRecord) -> pa.Table:
        """A shard's index columns.

        Raises:
            ValueError: If it is damaged.
        """
        return pa.Table.from_batches([self.columns(record, INDEX_SCHEMA.names)]).cast(INDEX_SCHEMA)

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

    def _frame(self, record: ShardRecord) -> tuple[int, int, int]:
        """Where a shard's rows should be, and the CRC-32 of what is outside."""
        start, end, _ = record.frame
        try:
            with self._file(record).open("rb") as file:
                before = file.read(start)
                file.seek(end)
                return start, end, zlib.crc32(file.read(), zlib.crc32(before))
        except OSError as error:
            raise self._damaged(record, str(error)) from None

    def _file(self, record: ShardRecord) -> Path:
        return self._folder / f"{record.name}{DATA}"

    def _damaged(self, record: ShardRecord, reason: str) -> ValueError:
        file = self._file(record)
        return ValueError(f"shard {file} is damaged ({reason}): {remedy(self._folder)}")
