"""Data half: what the reader of a format finds in a file, and the options it reads with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from retro_lightning.trajectory import Trajectory

if TYPE_CHECKING:
    from retro_lightning.replay.formats.source import Source


@dataclass(frozen=True)
class Options:
    """What the user says about all files of an import.

    Attributes:
        behaviour_id: Which agent acted; None = what the record says, else the file's label.
        family: Kind of task; None = the format's own name for it.
        run: Which run the records belong to, part of their identity; None = the file's label.
        mapping: YAML file of the format ``mapping``: which field is what.
    """

    behaviour_id: str | None = None
    family: str | None = None
    run: str | None = None
    mapping: Path | None = None


class Line(int):
    """The line on which a record begins; ``element`` counts those of a JSON array, from 1.

    An array may stand on one line: there the element alone says which record is meant.
    """

    element: int = 0


@dataclass(frozen=True)
class Attempt:
    """A trajectory, and the line on which its record begins (from 1; 0 = the whole file)."""

    line: int
    trajectory: Trajectory


@dataclass(frozen=True)
class Reject:
    """A record that cannot be read, and why, in one sentence without the file's name."""

    line: int
    reason: str


@dataclass(frozen=True)
class Remark:
    """Something a reader of the import report should know about a record that was read."""

    line: int
    text: str


@dataclass(frozen=True)
class Check:
    """A total that the log itself tells, beside the one that was counted."""

    line: int
    what: str
    told: str
    found: str


Item = Attempt | Reject | Remark | Check
Reader = Callable[["Source", Options], Iterator[Item]]
"""A format: yields what it finds in a file, in the file's order."""


class BadRecordError(ValueError):
    """A record that cannot be read; the message is the reason."""
