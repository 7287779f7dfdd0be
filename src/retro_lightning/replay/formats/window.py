"""Behaviour half: JSON values one after the other in a file of any size, in bounded memory.

After a value that is not JSON, reading goes on where the next record seems to begin: at a brace
that opens a line and stands no further in than the bad record's, or after a comma at a brace with
the same first key as the record before.
"""

from __future__ import annotations

import codecs
import io
import json
import re
import zlib
from typing import IO, Any, cast

RECORD_LIMIT = 64 * 2**20
"""Longest line or record that is read, in bytes of a line or characters of an array's element."""

UNREADABLE = (OSError, EOFError, zlib.error)
"""What reading a file raises that is cut short, damaged or gone."""

CHUNK = 2**20
_FILLING = re.compile(r"[\s,]*")
_OVERLAP = 4096
"""Characters that are searched again with the next chunk: more than a record's opening has."""
_LONGEST_WORD = 16
"""More characters than JSON has in a word or an escape, which the end of a window may cut."""


class Window:
    """A growing window on a file's text, and a place in it.

    Attributes:
        buffer: The window.
        place: What is before it has been dealt with.
        line: The line of the place.
        error: Why the file cannot be read to its end; empty = it can.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = cast(io.BufferedReader, file)
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._json = json.JSONDecoder()
        self._ended = False
        self._column = 0
        self.buffer, self.place, self.line, self.error = "", 0, 1, ""

    def filled(self) -> bool:
        """Go on to what is neither space nor comma; False = there is nothing but the end."""
        while True:
            self.pass_over(cast(re.Match[str], _FILLING.match(self.buffer, self.place)).end())
            if self.place < len(self.buffer):
                return True
            if not self._more():
                return False

    def value(self) -> tuple[Any, str | None]:
        """The JSON value at the place, which goes behind it; or what is wrong with it there."""
        while True:
            try:
                value, end = self._json.raw_decode(self.buffer, self.place)
            except (ValueError, RecursionError) as error:
                problem = not_json(error, self.place)
                if not self._ends_in(error):
                    return None, problem
            else:
                if end - self.place <= RECORD_LIMIT:
                    self.pass_over(end)
                    return value, None
            if len(self.buffer) - self.place > RECORD_LIMIT:
                return None, f"the record is longer than {RECORD_LIMIT} characters: split it"
            if not self._more():
                return None, problem

    def find_next(self, opening: str) -> bool:
        """Go on to where the next record seems to begin; False = nowhere.

        Args:
            opening: Brace and first key of a record; empty = not known.
        """
        depth = min(self._column, _OVERLAP // 2)
        behind = rf",\s*(?={re.escape(opening)})" if opening else r"\}\s*,\s*(?=\{)"
        begins = re.compile(rf"\n[ \t]{{0,{depth}}}(?=\{{)|{behind}")
        while True:
            if found := begins.search(self.buffer, self.place):
                self.pass_over(found.end())
                return True
            self.pass_over(max(self.place, len(self.buffer) - _OVERLAP))
            if not self._more():
                return False

    def pass_over(self, end: int) -> None:
        """Move the place on."""
        breaks = self.buffer.count("\n", self.place, end)
        start = self.buffer.rindex("\n", self.place, end) + 1 if breaks else self.place
        self._column = end - start + (0 if breaks else self._column)
        self.line += breaks
        self.place = end

    def _ends_in(self, error: Exception) -> bool:
        """Whether it is the window's end that is wrong, and more text may put it right."""
        return isinstance(error, json.JSONDecodeError) and (
            error.msg.startswith("Unterminated") or error.pos > len(self.buffer) - _LONGEST_WORD
        )

    def _more(self) -> bool:
        """Drop what has been dealt with and read on: at least as much again as is kept."""
        self.buffer, self.place = self.buffer[self.place :], 0
        wanted, parts = max(CHUNK, len(self.buffer)), [""]
        while wanted > 0 and not self._ended:
            try:
                data = self._file.read1(wanted)
            except UNREADABLE as error:
                data, self.error = b"", str(error) or type(error).__name__
            self._ended = not data
            wanted -= len(data)
            parts.append(self._decoder.decode(data, final=self._ended))
        self.buffer += "".join(parts)
        return any(parts)


def not_json(error: Exception, begin: int | None = None) -> str:
    """What is wrong, and where: the column, or the character of a record that begins somewhere."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if not isinstance(error, json.JSONDecodeError):
        return f"it is not JSON ({str(error).split(';')[0]})"
    place = f"column {error.colno}" if begin is None else f"character {error.pos - begin + 1} of it"
    return f"it is not JSON ({error.msg.removesuffix(' at')} at {place})"
