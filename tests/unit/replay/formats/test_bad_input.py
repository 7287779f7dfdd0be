"""Bad input: the line and the reason are told, the good goes in, nothing is executed."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retro_lightning.replay.formats import source as source_module
from retro_lightning.replay.formats.importing import ImportReport, import_files
from retro_lightning.replay.formats.items import Options, Reject
from retro_lightning.replay.formats.readers import READERS
from retro_lightning.replay.formats.source import Source
from retro_lightning.replay.records import encode
from retro_lightning.replay.store import ReplayStore
from tests.support import random_trajectory

GOOD = {
    "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}],
    "reward": 1,
}
TALK = GOOD["messages"]
LINE = json.dumps(GOOD).encode()


def run(
    tmp_path: Path, data: bytes, format_: str = "chat", name: str = "log.jsonl", most: int = 100
) -> tuple[ImportReport, list[dict]]:
    file, rejects = tmp_path / name, tmp_path / "rejects.jsonl"
    file.write_bytes(data)
    store = ReplayStore(tmp_path / "store", create=True)
    report = import_files(
        store, [file], format_, READERS[format_], Options(), rejects=rejects, max_errors=most
    )
    lines = rejects.read_text().splitlines() if rejects.exists() else []
    return report, [json.loads(line) for line in lines]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b'{"messages": [', "it is not JSON"),
        (b"[1, 2]", "a JSON list, not an object"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "it is not JSON"),
        (b'{"reward": 1}', "the field 'messages' is missing"),
        (json.dumps({"messages": TALK}).encode(), "the field 'reward' is missing"),
        (json.dumps({**GOOD, "reward": "one"}).encode(), "reward is text, not a number"),
        (json.dumps({**GOOD, "reward": True}).encode(), "reward is true or false, not a number"),
        (json.dumps({**GOOD, "reward": float("nan")}).encode(), "reward is nan, not a finite"),
        (json.dumps({**GOOD, "reward": 10**400}).encode(), "reward is inf, not a finite"),
        (json.dumps({**GOOD, "attempt": -1}).encode(), "attempt is -1, not between"),
        (json.dumps({**GOOD, "attempt": 2**31}).encode(), "attempt is 2147483648, not between"),
        (json.dumps({**GOOD, "created": "yesterday"}).encode(), "'yesterday', neither seconds"),
        (json.dumps({**GOOD, "created": 1.764e12}).encode(), "1.764e+12, which is no time in sec"),
        (json.dumps({**GOOD, "truncation": "rm -rf"}).encode(), "truncation is 'rm -rf'; known"),
        (json.dumps({**GOOD, "messages": []}).encode(), "no assistant message"),
        (json.dumps({**GOOD, "messages": {}}).encode(), "messages is an object, not a list"),
        (json.dumps({**GOOD, "messages": [{"role": "wizard"}]}).encode(), "unknown role 'wizard'"),
        (json.dumps({**GOOD, "messages": [{"content": ""}]}).encode(), "field 'role' is missing"),
        (json.dumps({**GOOD, "messages": [*TALK, 7]}).encode(), "message 2 is a number"),
        (json.dumps({**GOOD, "task_id": "\ud800"}).encode(), "not Unicode"),
        (LINE.replace(b"hello", b"\xe9"), "not UTF-8 (byte 0xe9 at position"),
        (
            json.dumps({"reward": 1, "messages": [TALK[0], {**TALK[1], "reward": 2}]}).encode(),
            "reward is 1, but the messages' rewards add up to 2.0",
        ),
    ],
)
def test_a_bad_line_is_told_and_the_rest_goes_in(tmp_path: Path, bad: bytes, reason: str) -> None:
    report, rejects = run(tmp_path, b"\n".join([LINE, b"", bad, LINE]))
    assert report.totals["imported"] == 2
    assert report.totals["rejected"] == 1
    (reject,) = rejects
    assert (Path(reject["file"]).name, reject["line"], reject["kind"]) == (
        "log.jsonl",
        3,
        "rejected",
    )
    assert reason in reject["reason"]
    assert len(ReplayStore(tmp_path / "store")) == 2


def test_a_line_without_end_is_skipped_in_bounded_memory(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(source_module, "RECORD_LIMIT", 1000)
    huge = b'{"messages": "' + b"x" * 3_000_000 + b'"}'
    report, (reject,) = run(tmp_path, b"\n".join([LINE, huge, LINE]))
    assert (report.totals["imported"], reject["line"]) == (2, 2)
    assert "longer than 1000 bytes" in reject["reason"]
    sizes = [
        len(line) for _, line in Source(tmp_path / "log.jsonl").lines() if isinstance(line, str)
    ]
    assert max(sizes) <= 1000


class Exploding:
    def __reduce__(self) -> tuple:
        return os._exit, (3,)


@pytest.mark.parametrize("format_", sorted(READERS))
def test_a_pickle_is_never_loaded(tmp_path: Path, format_: str) -> None:
    for protocol in (2, 4):
        report, rejects = run(
            tmp_path, pickle.dumps([Exploding()], protocol), format_, f"trial_{protocol}.json"
        )
        assert "a Python pickle, which is never loaded" in rejects[-1]["reason"]
        assert report.totals["imported"] == 0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("[]".encode("utf-16"), "UTF-16"),
        (b"PK\x03\x04rest", "zip archive"),
        (b"\x1f\x8b" + b"\x00" * 20, "cannot be read"),
        (gzip.compress(LINE * 50)[:-20], "cannot be read to its end"),
    ],
)
def test_a_file_that_no_format_reads(tmp_path: Path, data: bytes, reason: str) -> None:
    _, rejects = run(tmp_path, data)
    assert reason in rejects[-1]["reason"]


def test_an_array_that_was_cut_short_keeps_its_beginning(tmp_path: Path) -> None:
    whole = json.dumps([GOOD] * 5, indent=1).encode()
    report, (reject,) = run(tmp_path, whole[:-40])
    assert report.totals["imported"] == 4
    assert "what follows cannot be read" in reject["reason"]
    assert run(tmp_path / "..", LINE, name="x.jsonl")  # another file, no interference


def test_bytes_of_another_encoding_in_an_array_spoil_only_their_record(tmp_path: Path) -> None:
    records = [json.dumps(GOOD).encode(), LINE.replace(b"hello", b"caf\xe9"), LINE]
    report, (reject,) = run(tmp_path, b"[" + b",\n".join(records) + b"]")
    assert (report.totals["imported"], reject["line"]) == (2, 2)


def test_a_threshold_stops_the_import_and_keeps_what_was_good(tmp_path: Path) -> None:
    data = b"\n".join([LINE, b"x", b"y", b"z", LINE])
    with pytest.raises(ValueError, match=r"log.jsonl, line 4: more than --max-errors 2 records"):
        run(tmp_path, data, most=2)
    assert len(ReplayStore(tmp_path / "store")) == 1
    report, _ = run(tmp_path, data, most=3)
    assert (report.totals["imported"], report.totals["duplicates"]) == (1, 1)


def test_the_same_record_twice_is_refused_and_another_of_its_name_told(tmp_path: Path) -> None:
    named = {**GOOD, "task_id": 7, "attempt": 0}
    report, _ = run(tmp_path, json.dumps(named).encode())
    assert report.totals["imported"] == 1
    report, rejects = run(tmp_path, json.dumps(named).encode())
    assert (report.totals["duplicates"], report.totals["rejected"]) == (1, 0)
    assert rejects[-1]["kind"] == "duplicate"
    report, rejects = run(tmp_path, json.dumps({**named, "reward": 0}).encode())
    assert (report.totals["imported"], report.totals["rejected"]) == (0, 1)
    assert "name it with --run" in rejects[-1]["reason"]


def test_no_id_chooses_a_path(tmp_path: Path) -> None:
    evil = "../../../escaped"
    record = {**GOOD, "task_id": evil, "family": evil, "model": f"/tmp/{evil}"}
    run(tmp_path, json.dumps(record).encode())
    files = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*")}
    assert files == {"log.jsonl", "store"}
    (made,) = ReplayStore(tmp_path / "store").read([0])
    assert made.task.family == evil  # a text like any other


def test_a_table_without_messages_and_a_damaged_one(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "t.parquet")
    _, rejects = run(tmp_path, (tmp_path / "t.parquet").read_bytes(), "parquet", "t.parquet")
    assert "--format mapping" in rejects[-1]["reason"]
    for name in ("u.parquet", "u.arrow"):
        _, rejects = run(tmp_path, b"no table at all", "parquet", name)
        assert "not a Parquet or Arrow file" in rejects[-1]["reason"]


def test_bad_rows_of_a_csv_are_told_and_the_rest_goes_in(tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_text("task: q\naction: a\nreward: r\n")
    long = b"x" * 200_000
    rows = [b"q,a,r", b"one,go,1", b'two,"go" on,1', b"three,go", b"four,go,much", b"five,\xff,1"]
    (tmp_path / "log.csv").write_bytes(b"\n".join([*rows, b"six," + long + b",1", b"seven,go,0"]))
    items = READERS["mapping"](Source(tmp_path / "log.csv"), Options(mapping=tmp_path / "map.yaml"))
    found = {
        item.line: item.reason if isinstance(item, Reject) else item.trajectory.task.instruction
        for item in items
    }
    assert {line: text for line, text in found.items() if line in (2, 7, 8)} == {
        2: "one",
        7: "six",
        8: "seven",
    }
    assert "not CSV" in found[3]
    assert "has not 3 fields" in found[4]
    assert "r is 'much', not a number" in found[5]
    assert "not UTF-8" in found[6]


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("task_id", None, "task_id is null, not text"),
        ("split", "holdout", "split is 'holdout'"),
        ("truncation", "boredom", "truncation is 'boredom'"),
        ("steps", [{"observation": None, "action": "x", "reward": 0.0}], "observation of step 0"),
        ("steps", [{"observation": "", "action": "x", "reward": None}], "must be real number"),
        ("steps", [{"observation": "", "action": "x", "reward": np.inf}], "is not finite"),
    ],
)
def test_rows_of_our_own_columns_are_checked(tmp_path: Path, field, value, reason) -> None:
    good = random_trajectory(np.random.default_rng(1), steps=1)
    good = dataclasses.replace(good, truncated=True, truncation="task_limit", terminated=False)
    row = encode([good]).to_pylist()[0]
    rows = [row, {**row, field: value}, {**row, "attempt": 7}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "made.parquet")  # as another writer would
    data = (tmp_path / "made.parquet").read_bytes()
    report, (reject,) = run(tmp_path, data, "parquet", "log.parquet")
    assert (report.totals["imported"], reject["line"]) == (2, 2)
    assert reason in reject["reason"]


@pytest.mark.parametrize("form", ["array", "lines", "spread", "gzip"])
def test_json_in_all_its_layouts_has_the_right_lines(tmp_path: Path, form: str) -> None:
    records = [{"a": "x" * 40, "n": n} for n in range(50)]
    text = {
        "array": json.dumps(records),
        "lines": "\n".join(map(json.dumps, records)) + "\n",
        "spread": json.dumps(records, indent=1),
        "gzip": "\n".join(map(json.dumps, records)),
    }[form].encode()
    file = tmp_path / "x.json"
    file.write_bytes(gzip.compress(text) if form == "gzip" else text)
    found = list(Source(file).records())
    assert [record for _, record in found] == records
    expected = {"array": [1] * 50, "spread": [2 + 4 * n for n in range(50)]}
    assert [line for line, _ in found] == expected.get(form, list(range(1, 51)))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=80), st.sampled_from(sorted(set(READERS) - {"mapping"})))
def test_no_bytes_bring_an_import_down(tmp_path_factory, data: bytes, format_: str) -> None:
    file = tmp_path_factory.mktemp("any") / "trial_0.json"
    file.write_bytes(data)
    source = Source(file)
    if source.refusal() is None:
        for item in READERS[format_](source, Options()):
            assert not isinstance(item, Reject) or item.reason
