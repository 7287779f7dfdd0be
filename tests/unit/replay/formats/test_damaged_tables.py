"""Damaged Arrow and Parquet files: nothing in them is looked at before Arrow has checked it."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retro_lightning.replay.formats.importing import import_files
from retro_lightning.replay.formats.items import Attempt, Item, Options, Reject
from retro_lightning.replay.formats.readers import READERS
from retro_lightning.replay.formats.source import Source
from retro_lightning.replay.records import encode
from retro_lightning.replay.store import ReplayStore
from tests.support import random_trajectory

READ = """
import sys
from pathlib import Path
from retro_lightning.replay.formats.items import Attempt, Options
from retro_lightning.replay.formats.readers import READERS
from retro_lightning.replay.formats.source import Source
options = Options(mapping=Path(sys.argv[1]))
for name in sys.argv[2:]:
    for format_ in ("parquet", "mapping"):
        found = list(READERS[format_](Source(name), options))
        good = sum(isinstance(item, Attempt) for item in found)
        assert all(isinstance(item, Attempt) or item.reason for item in found)
        print(format_, good, len(found) - good)
"""


def batch_of(count: int, first: int = 0) -> pa.RecordBatch:
    rng = np.random.default_rng(first)
    return encode([random_trajectory(rng, first + number, steps=3) for number in range(count)])


def written(path: Path, *batches: pa.RecordBatch) -> bytes:
    with pa.ipc.new_file(str(path), batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return path.read_bytes()


def read_elsewhere(tmp_path: Path, *files: Path) -> list[list[str]]:
    """Reads files in another process, since a wrong offset would end this one."""
    mapping = tmp_path / "map.yaml"
    mapping.write_text("{task: instruction, steps: steps, action: action, reward: reward}")
    done = subprocess.run(
        [sys.executable, "-c", READ, str(mapping), *map(str, files)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:] or done.returncode
    return [line.split() for line in done.stdout.splitlines()]


def items(file: Path, format_: str = "parquet") -> list[Item]:
    return list(READERS[format_](Source(file), Options()))


def test_a_wrong_offset_spoils_its_batch_alone(tmp_path: Path) -> None:
    batches = [batch_of(10), batch_of(12, 10), batch_of(14, 22)]
    data = written(tmp_path / "good.arrow", *batches)
    steps = batches[1]["steps"].values
    columns = [batches[1][name] for name in ("instruction", "task_id", "steps")]
    files = []
    for array in (*columns, steps.field("action"), steps.field("observation")):
        offsets = array.buffers()[1].to_pybytes()[: 4 * 13]
        texts = b"" if array is columns[2] else array.buffers()[2].to_pybytes()
        place = data.find(offsets) if not texts else data.rfind(offsets, 0, data.find(texts))
        for value in (2**31 - 10, -5, 10**8):
            bad = bytearray(data)
            bad[place + 16 : place + 20] = struct.pack("<i", value)
            files.append(tmp_path / f"bad_{len(files)}.arrow")
            files[-1].write_bytes(bad)
    assert read_elsewhere(tmp_path, *files) == [["parquet", "24", "1"], ["mapping", "24", "1"]] * 15
    (reject,) = [item for item in items(files[0]) if isinstance(item, Reject)]
    assert reject.line == 11
    assert "rows 11 to 22 are damaged" in reject.reason


def test_no_flipped_byte_ends_the_process(tmp_path: Path) -> None:
    data = written(tmp_path / "good.arrow", batch_of(6), batch_of(5, 6))
    rng = np.random.default_rng(5)
    files = []
    for number in range(150):
        bad = bytearray(data)
        for place in rng.integers(0, len(data), size=1 + number % 4):
            bad[place] ^= 1 << int(rng.integers(8))
        files.append(tmp_path / f"bad_{number}.arrow")
        files[-1].write_bytes(bad)
    counts = read_elsewhere(tmp_path, tmp_path / "good.arrow", *files)
    assert counts[0] == ["parquet", "11", "0"]
    assert {good for _, good, _ in counts} > {"0", "11"}  # some are harmless, others are not


@pytest.mark.parametrize("ending", ["arrow", "parquet"])
@pytest.mark.parametrize("format_", ["hf", "mapping"])
def test_text_that_is_not_utf8_spoils_its_row_alone(
    tmp_path: Path, ending: str, format_: str
) -> None:
    talk = [[{"role": "user", "content": t}] for t in ("one", "caf?", "three")]
    answer = {"role": "assistant", "content": "hello"}
    rows = [{"q": t[0]["content"], "messages": [*t, answer], "reward": 1.0} for t in talk]
    table = pa.Table.from_pylist(rows)
    file = tmp_path / f"bad.{ending}"
    if ending == "arrow":
        written(file, *table.to_batches())
    else:
        pq.write_table(table, file, use_dictionary=False, compression="none")
    file.write_bytes(file.read_bytes().replace(b"caf?", b"caf\xe9"))
    good = tmp_path / "good.jsonl"
    good.write_text(json.dumps({**rows[0], "task_id": 1}))
    mapping = tmp_path / "map.yaml"
    mapping.write_text("{task: q, action: messages.1.content, reward: reward}")
    store = ReplayStore(tmp_path / "store", create=True)
    rejects = tmp_path / "rejects.jsonl"
    report = import_files(
        store,
        [file, file],
        format_,
        READERS[format_],
        Options(mapping=mapping),
        rejects=rejects,
        max_errors=9,
    )
    assert [(f.imported, f.duplicates, f.rejected) for f in report.files] == [(2, 0, 1), (0, 2, 1)]
    told = [json.loads(line) for line in rejects.read_text().splitlines()]
    (first, _) = (entry for entry in told if entry["kind"] == "rejected")
    assert (first["file"], first["line"]) == (str(file), 2)
    assert "not UTF-8 (byte 0xe9 at position 3)" in first["reason"]


def test_a_damaged_row_group_spoils_itself_alone(tmp_path: Path) -> None:
    file = tmp_path / "bad.parquet"
    table = pa.Table.from_batches([batch_of(30)])
    pq.write_table(table, file, row_group_size=10, compression="zstd")
    column = pq.ParquetFile(file).metadata.row_group(1).column(0)
    data = bytearray(file.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    file.write_bytes(data)
    found = items(file)
    assert sum(isinstance(item, Attempt) for item in found) == 20
    (reject,) = [item for item in found if isinstance(item, Reject)]
    assert (reject.line, "rows 11 to 20 are damaged" in reject.reason) == (11, True)


def test_a_value_that_python_cannot_hold_spoils_its_row_alone(tmp_path: Path) -> None:
    rows = {
        "q": ["a", "b"],
        "when": pa.array([0, 2**60], pa.timestamp("ms")),  # the year 36,000,000
        "a": ["x", "y"],
        "r": [1, 1],
    }
    pq.write_table(pa.table(rows), tmp_path / "t.parquet")
    mapping = tmp_path / "map.yaml"
    mapping.write_text("{task: q, action: a, reward: r}")
    file = tmp_path / "t.parquet"
    good, bad = READERS["mapping"](Source(file), Options(mapping=mapping))
    assert isinstance(good, Attempt)
    assert isinstance(bad, Reject)
    assert (bad.line, "a value cannot be read" in bad.reason) == (2, True)
