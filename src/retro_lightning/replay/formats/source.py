"""Behaviour half: reads a file of someone else's in bounded memory, and executes nothing in it.

A line or record longer than 64 MiB, a line that is not UTF-8, and text that is not JSON come out as
rejects with their line; everything else goes on. Bytes that are not UTF-8 inside a large JSON array
are carried along as surrogates, so that only the record they belong to is refused.
"""

from __future__ import annotations

import codecs
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from retro_lightning.replay.formats.items import Reject

RECORD_LIMIT = 64 * 2**20
"""Longest line or record that is read, in bytes of a line or characters of an array's element."""

_CHUNK = 2**20
_GZIP = b"\x1f\x8b"
_REFUSED = (
    (re.compile(rb"\x80[\x01-\x05]"), "a Python pickle, which is never loaded: write it as JSON"),
    (re.compile(rb"PK\x03\x04"), "a zip archive (or a PyTorch file): unpack it first"),
    (re.compile(rb"\xff\xfe|\xfe\xff"), "UTF-16 text: convert it with `iconv -t UTF-8`"),
)
_FILLING = re.compile(r"[\s,]*")
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
            except (OSError, EOFError) as error:
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
                        data = file.readline(_CHUNK)
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
        first = next((line for _, line in self.lines() if isinstance(line, Reject) or line), "")
        if (isinstance(first, str) and first.lstrip()[:1] == "[") or (
            isinstance(first, str) and _opens_only(first)
        ):
            yield from self._array()
        else:
            yield from self._json_lines()

    def _json_lines(self) -> Iterator[tuple[int, dict[str, Any] | Reject]]:
        for number, line in self.lines():
            if isinstance(line, Reject):
                yield number, line
            elif line.strip():
                try:
                    yield number, _object(json.loads(line), number)
                except (ValueError, RecursionError) as error:
                    yield number, Reject(number, _not_json(error))

    def _array(self) -> Iterator[tuple[int, dict[str, Any] | Reject]]:
        """Objects one after the other, with or without brackets and commas around them."""
        decoder, text, place, line = json.JSONDecoder(), _Text(self.open()), 0, 1
        depth = 0
        while True:
            end = cast(re.Match[str], _FILLING.match(text.buffer, place)).end()
            line += text.buffer.count("\n", place, end)
            place = end
            if place == len(text.buffer):
                if not text.more(place):
                    if depth:
                        yield line, Reject(line, "the file ends inside the array: it was cut short")
                    return
                place = 0
                continue
            if text.buffer[place] in "[]":
                depth += 1 if text.buffer[place] == "[" else -1
                place += 1
                continue
            try:
                value, end = decoder.raw_decode(text.buffer, place)
            except (ValueError, RecursionError) as error:
                if isinstance(error, RecursionError) or not text.more(place):
                    yield line, Reject(line, f"{_not_json(error)}; what follows cannot be read")
                    return
                place = 0
                continue
            yield line, _object(value, line)
            line += text.buffer.count("\n", place, end)
            place = end


class _Text:
    """A growing window on a file's text."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._ended = False
        self.buffer = ""

    def more(self, kept_from: int) -> bool:
        """Drop what is before a place and read on: at least as much again as is kept.

        Returns:
            False at the end of the file, and for a record that is too long.
        """
        kept = self.buffer[kept_from:]
        if self._ended or len(kept) > RECORD_LIMIT:
            return False
        data = self._file.read(max(_CHUNK, len(kept)))
        self._ended = not data
        self.buffer = kept + self._decoder.decode(data, final=self._ended)
        return bool(data)


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


def _not_json(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error).split(";")[0]
    place = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
    return f"it is not JSON ({reason}{place})"


def _not_utf8(byte: int, position: int) -> str:
    return f"it is not UTF-8 (byte 0x{byte:02x} at position {position}): save the file as UTF-8"
