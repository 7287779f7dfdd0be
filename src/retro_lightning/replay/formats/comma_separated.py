"""Behaviour half: a CSV file with a heading, row by row."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any

from retro_lightning.replay.formats.items import Reject
from retro_lightning.replay.formats.source import Source
from retro_lightning.replay.formats.window import RECORD_LIMIT


def named(source: Source) -> bool:
    """Whether a file's name says that it is one."""
    return source.path.name.removesuffix(".gz").endswith(".csv")


def rows(source: Source) -> Iterator[tuple[int, dict[str, Any] | Reject]]:
    """Rows with the lines they begin on; a bad line is left out and told."""
    bad: list[Reject] = []

    def good() -> Iterator[str]:
        for _, line in source.lines():
            if isinstance(line, Reject):
                bad.append(line)
                yield "\n"  # keeps the count of lines; the reader passes over empty ones
            else:
                yield f"{line}\n"

    csv.field_size_limit(RECORD_LIMIT)  # lines are no longer than that
    reader = csv.DictReader(good(), strict=True)
    while True:
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            yield reader.line_num + 1, Reject(reader.line_num + 1, f"it is not CSV: {error}")
            continue
        while bad:
            yield bad[0].line, bad.pop(0)
        line = reader.line_num - sum(str(value).count("\n") for value in row.values())
        if None in row or None in row.values():
            yield line, Reject(line, f"it has not {len(reader.fieldnames or ())} fields")
        else:
            yield line, row
    for reject in bad:
        yield reject.line, reject
