"""Behaviour half: reads a file of someone else's in bounded memory, and executes nothing in it.

A line or record longer than 64 MiB, a line that is not UTF-8, and text that is not JSON come out as
rejects with their line; everything else goes on. Bytes that are not UTF-8 inside a large JSON array
are carried along as surrogates, so that only the record they belong to is refused.
"""

from __future__ import annotations

import codecs
import contextlib
import gzip
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from retro_lightning.replay.formats.items import Line, Reject
from retro_lightning.replay.formats.window import (
    CHUNK,
    RECORD_LIMIT,
    UNREADABLE,
    Window,
    not_json,
)

_GZIP = b"\x1f\x8b"
_REFUSED = (
    (
        re.compile(rb"\x80[\x01-\x05]|\([ld]p\d+\n|[\]}]q.|ccopy_re", re.S),
        "a Python pickle, which is never loaded: write it as JSON",
    ),
    (re.compile(rb"PK\x03\x04"), "a zip archive (or a PyTorch file): unpack it first"),
    (re.compile(rb"\xff\xfe|\xfe\xff"), "UTF-16 text: convert it with `iconv -t UTF-8`"),
)
_OPENING = re.compile(r"\{\s*\"(?:[^\"\\\n]|\\.)*\"\s*:")
_LABEL = re.compile(r"(\.jsonl?|\.txt|\.csv|\.parquet|\.arrow|\.gz)+$", re.IGNORECASE)


class Source:
    """One file to import.

    Args:
        path: The file; gzip is recognised by its first bytes.

    Raises:
        FileNotFoundError: If there is no such file.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no file {self.path} to import")
        self.size = self.path.stat().st_size
        self._raw: IO[bytes] | None = None

    @property
    def label(self) -> str:
        """The file's name without folder and endings; a name in records, never a path."""
        return _LABEL.sub("", self.path.name) or self.path.name

    @property
    def position(self) -> int:
        """Bytes of the file read so far."""
        return 0 if self._raw is None or self._raw.closed else self._raw.tell()

    def refusal(self) -> str | None:
        """Why no format can read the file at all; None = nothing speaks against it."""
        with self.open() as file:
            try:
                start = file.read(8)
            except UNREADABLE as error:
                return f"it cannot be read: {error}"
        return next((f"it is {what}" for magic, what in _REFUSED if magic.match(start)), None)

    def open(self) -> IO[bytes]:
        """The file's bytes, unpacked."""
        self._raw = self.path.open("rb")
        packed = self._raw.read(2) == _GZIP
        self._raw.seek(0)
        return cast(IO[bytes], gzip.GzipFile(fileobj=self._raw)) if packed else self._raw

    def lines(self) -> Iterator[tuple[int, str | Reject]]:
        """Lines with their numbers from 1, without line ends; bad ones as rejects."""
        number = 0
        with self.open() as file:
            while data := file.readline(RECORD_LIMIT + 1):
                number += 1
                if len(data) > RECORD_LIMIT:
                    while data and not data.endswith(b"\n"):
                        data = file.readline(CHUNK)
                    yield number, Reject(number, f"the line is longer than {RECORD_LIMIT} bytes")
                    continue
                if number == 1:
                    data = data.removeprefix(codecs.BOM_UTF8)
                try:
                    yield number, data.decode().rstrip("\r\n")
                except UnicodeDecodeError as error:
                    yield number, Reject(number, _not_utf8(data[error.start], error.start))

    def records(self) -> Iterator[tuple[int, dict[str, Any] | Reject]]:
        """JSON objects with the lines they begin on: an array, one object, or one a line."""
        first = self._first_line()
        if first.startswith("[") or _opens_only(first):
            yield from self._array()
        else:
            yield from self._json_lines()

    def _first_line(self) -> str:
        """The first line that has something in it, or its beginning."""
        start = bytearray()
        with self.open() as file, contextlib.suppress(*UNREADABLE):
            while len(start) < RECORD_LIMIT and b"\n" not in start.lstrip():
                data = cast(io.BufferedReader, file).read1(CHUNK)
                if not data:
                    break
                start += data
        line, _, _ = start.removeprefix(codecs.BOM_UTF8).lstrip().partition(b"\n")
        return line.decode(errors="surrogateescape")

    def _json_lines(self) -> Iterator[tuple[int, dict[str, Any] | Reject]]:
        for number, line in self.lines():
            if isinstance(line, Reject):
                yield number, line
            elif line.strip():
                try:
                    yield number, _object(json.loads(line), number)
                except (ValueError, RecursionError) as error:
                    yield number, Reject(number, not_json(error))

    def _array(self) -> Iterator[tuple[int, dict[str, Any] | Reject]]:
        """Objects one after the other, with or without brackets and commas around them."""
        text, opening, reason = Window(self.open()), "", ""
        depth = element = 0
        is_array = True  # more than a bad line that begins with a bracket
        while text.filled():
            if text.buffer[text.place] in "[]":
                depth += 1 if text.buffer[text.place] == "[" else -1
                text.pass_over(text.place + 1)
                continue
            line = Line(text.line)
            if depth > 0:
                line.element = element = element + 1
            found = _OPENING.match(text.buffer, text.place)
            value, problem = text.value()
            if problem is None:
                yield line, _object(value, line)
                opening = found[0] if found and isinstance(value, dict) else opening
            elif text.find_next(opening or (found[0] if found else "")):
                yield line, Reject(line, problem)
                is_array = is_array and element > 1
            else:
                reason = f"{problem}; what follows cannot be read"
                break
        else:
            line = Line(text.line)
            reason = (
                "the file ends inside the array: it was cut short" if depth > 0 and is_array else ""
            )
        if text.error:
            reason = f"the file cannot be read to its end: {text.error}"
        if reason:
            yield line, Reject(line, reason)


def _opens_only(line: str) -> bool:
    """Whether a line is the beginning of a JSON object that goes on in the next."""
    if not line.lstrip().startswith("{"):
        return False
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        return error.pos >= len(line.rstrip()) - 1
    except (ValueError, RecursionError):
        return False
    return False


def _object(value: Any, line: int) -> dict[str, Any] | Reject:
    if isinstance(value, dict):
        return value
    return Reject(line, f"it is a JSON {type(value).__name__}, not an object")


def _not_utf8(byte: int, position: int) -> str:
    return f"it is not UTF-8 (byte 0x{byte:02x} at position {position}): save the file as UTF-8"
