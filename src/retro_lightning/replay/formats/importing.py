"""Behaviour half: files of a format into a store: good records go in, bad ones are told.

Records are read one by one and published in shards as they come: memory does not grow with the
file, and what a killed import has published stays; started again, it refuses what is there already
and goes on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from retro_lightning.replay.formats.items import Attempt, Check, Item, Line, Options, Reader, Reject
from retro_lightning.replay.formats.source import Source
from retro_lightning.replay.formats.window import UNREADABLE
from retro_lightning.replay.identities import Identities
from retro_lightning.replay.lock import locked
from retro_lightning.replay.records import content_hash, encode
from retro_lightning.replay.store import ReplayStore
from retro_lightning.trajectory import Trajectory

_SHARD_ROWS = 4096
_SHARD_TEXT = 32 * 2**20


@dataclass
class FileReport:
    """What became of one file.

    Attributes:
        file: The file, as it was named.
        imported: Trajectories that went in, outcome records included.
        outcome_records: Those of them that have no steps.
        successes: Successes among those imported.
        total_return: Sum of their returns.
        duplicates: Records that the store has already.
        rejected: Records that cannot be read.
        checks: Totals that the log tells, beside those counted.
        remarks: Line and sentence: what differs from the log's own account, and why.
    """

    file: str
    imported: int = 0
    outcome_records: int = 0
    successes: int = 0
    total_return: float = 0.0
    duplicates: int = 0
    rejected: int = 0
    checks: list[dict[str, Any]] = field(default_factory=list)
    remarks: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class ImportReport:
    """What became of an import."""

    format: str
    store: str
    rejects: str
    files: list[FileReport] = field(default_factory=list)

    @property
    def totals(self) -> dict[str, Any]:
        """Sums over the files; ``mean_return`` of what was imported, None if nothing was."""
        names = ("imported", "outcome_records", "successes", "duplicates", "rejected")
        sums: dict[str, Any] = {n: sum(getattr(f, n) for f in self.files) for n in names}
        returns = sum(file.total_return for file in self.files)
        sums["mean_return"] = returns / sums["imported"] if sums["imported"] else None
        return sums

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data."""
        head = {"format": self.format, "store": self.store, "rejects": self.rejects}
        return {**head, **self.totals, "files": [asdict(file) for file in self.files]}


def import_files(
    store: ReplayStore,
    files: Sequence[Path],
    format_: str,
    reader: Reader,
    options: Options,
    *,
    rejects: Path,
    max_errors: int,
    on_progress: Callable[[Source], None] = lambda _: None,
) -> ImportReport:
    """Import files, in their order.

    Args:
        store: Where trajectories go.
        files: The files.
        format_: Name of the format.
        reader: The format.
        options: What the user says about all files.
        rejects: File to which refused records are appended, a JSON object a line.
        max_errors: Rejected records after which the import stops.
        on_progress: Called after every record.

    Raises:
        FileNotFoundError: If a file is missing; nothing is imported then.
        ValueError: If more records than ``max_errors`` are rejected.
    """
    sources = [Source(file) for file in files]
    report = ImportReport(format_, str(store.path), str(rejects))
    with locked(store.path, "import"), _Intake(store, rejects, max_errors) as intake:
        for source in sources:
            report.files.append(FileReport(str(source.path)))
            for item in _items(source, reader, options):
                intake.take(item, report.files[-1])
                on_progress(source)
    store.refresh()
    return report


def _items(source: Source, reader: Reader, options: Options) -> Iterable[Item]:
    refusal = source.refusal()
    if refusal is not None:
        yield Reject(0, refusal)
        return
    try:
        yield from reader(source, options)
    except UNREADABLE as error:
        yield Reject(0, f"the file cannot be read to its end: {error}")


class _Intake:
    """Collects trajectories into shards and refusals into a file."""

    def __init__(self, store: ReplayStore, rejects: Path, max_errors: int) -> None:
        store.refresh()
        self._store, self._rejects, self._max_errors = store, rejects, max_errors
        self._known = Identities.of(store)
        self._waiting: dict[str, Trajectory] = {}
        self._text = 0
        self._errors = 0
        self._file: IO[str] | None = None

    def __enter__(self) -> _Intake:
        return self

    def __exit__(self, *_: object) -> None:
        """Publish what waits, whatever ended the import."""
        self._publish()
        if self._file is not None:
            self._file.close()

    def take(self, item: Item, report: FileReport) -> None:
        if isinstance(item, Attempt):
            self._trajectory(item, report)
        elif isinstance(item, Reject):
            self._reject(item.line, item.reason, report)
        elif isinstance(item, Check):
            report.checks.append(asdict(item))
        else:
            report.remarks.append(asdict(item))

    def _trajectory(self, item: Attempt, report: FileReport) -> None:
        made = item.trajectory
        identity = made.trajectory_id
        stored = self._known.find(identity)
        if stored is None and identity in self._waiting:
            stored = content_hash(self._waiting[identity])
        if stored is None:
            self._waiting[identity] = made
            self._text += sum(len(s.observation) + len(s.action) for s in made.steps)
            report.imported += 1
            report.outcome_records += made.outcome_return is not None
            report.successes += made.success
            report.total_return += made.total_return
            if len(self._waiting) >= _SHARD_ROWS or self._text >= _SHARD_TEXT:
                self._publish()
        elif stored == content_hash(made):
            report.duplicates += 1
            self._write(item.line, "duplicate", "the store has this very record already", report)
        else:
            reason = (
                f"the store has another record of run {made.run!r}, task {made.task.task_id}, "
                f"attempt {made.attempt}: if this file is from another run, name it with --run"
            )
            self._reject(item.line, reason, report)

    def _reject(self, line: int, reason: str, report: FileReport) -> None:
        report.rejected += 1
        self._errors += 1
        self._write(line, "rejected", reason, report)
        if self._errors > self._max_errors:
            raise ValueError(
                f"import stopped at {report.file}, {_named(line)}: more than --max-errors "
                f"{self._max_errors} records were rejected, the last because {reason}; all reasons "
                f"are in {self._rejects}; good records before it are in the store"
            )

    def _write(self, line: int, kind: str, reason: str, report: FileReport) -> None:
        if self._file is None:
            self._file = self._rejects.open("a", encoding="utf-8", buffering=1)
        element = {"element": line.element} if isinstance(line, Line) and line.element else {}
        entry = {"file": report.file, "line": line, **element, "kind": kind, "reason": reason}
        print(json.dumps(entry), file=self._file)

    def _publish(self) -> None:
        if self._waiting:
            batch = encode(list(self._waiting.values()), time.time())
            self._store.adopt([batch])
            for identity, content in zip(
                self._waiting, batch.column("content_hash").to_pylist(), strict=True
            ):
                self._known.add(identity, content)
            self._waiting, self._text = {}, 0


def _named(line: int) -> str:
    element = line.element if isinstance(line, Line) else 0
    return f"line {line}, element {element}" if element else f"line {line}"
