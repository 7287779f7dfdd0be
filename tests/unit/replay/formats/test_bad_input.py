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
from retro_lightning.replay.formats import window as window_module
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


def numbered(number: int) -> dict:
    return {**GOOD, "task_id": number}


def array_of(*elements: bytes, between: bytes = b", ") -> bytes:
    return b"[" + between.join(elements) + b"]"


ELEMENTS = [json.dumps(numbered(number)).encode() for number in range(1, 6)]
LATIN = ELEMENTS[1].replace(b"hello", b"caf\xe9")
UNQUOTED = ELEMENTS[1].replace(b'"hello"', b'"hello')
UNCLOSED = ELEMENTS[1][:-30]


@pytest.mark.parametrize(
    "bad", [b"{oops}", LATIN, UNQUOTED, UNCLOSED, b"oops}", b'{"messages": [{"b": oops']
)
@pytest.mark.parametrize("between", [b",", b", ", b",\n", b"\n, \n ", b",\r\n  "])
@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_bad_element_of_an_array_spoils_itself_alone(
    tmp_path: Path, bad: bytes, between: bytes, place: int
) -> None:
    first, second, third, fourth, _ = ELEMENTS
    elements = [first, second, third, fourth]
    elements.insert(place, bad)
    report, rejects = run(tmp_path, array_of(*elements, between=between))
    assert report.totals["imported"] == 4
    (reject,) = rejects
    assert (reject["line"], reject["element"]) == (1 + between.count(b"\n") * place, place + 1)


@pytest.mark.parametrize("bad", [b'{"oops": }', UNQUOTED, UNCLOSED])
def test_a_bad_element_of_a_pretty_array_spoils_itself_alone(tmp_path: Path, bad: bytes) -> None:
    whole = json.dumps([numbered(1), "BAD", numbered(3)], indent=2).encode()
    report, (reject,) = run(tmp_path, whole.replace(b'"BAD"', bad))
    assert report.totals["imported"] == 2
    assert reject["element"] == 2
    spoilt = json.dumps([numbered(1), numbered(2), numbered(3)], indent=2)
    at = spoilt.index('"hello"', spoilt.index('"hello"') + 1)
    report, _ = run(tmp_path, (spoilt[:at] + spoilt[at + 1 :]).encode(), name="p.json")
    assert report.totals["imported"] == 2


@pytest.mark.parametrize(
    "first",
    [b"[broken", b'{"messages": [', b'{"messages": [{"role": "user",', b"[7, oops", b"{oops"],
)
def test_a_bad_first_line_spoils_itself_alone(tmp_path: Path, first: bytes) -> None:
    report, rejects = run(tmp_path, b"\n".join([first, *ELEMENTS]))
    assert report.totals["imported"] == 5
    assert rejects[0]["line"] == 1


def test_an_array_on_one_line_may_be_longer_than_a_record(tmp_path: Path, monkeypatch) -> None:
    for module in (source_module, window_module):
        monkeypatch.setattr(module, "RECORD_LIMIT", 1000)
    report, rejects = run(tmp_path, json.dumps([numbered(n) for n in range(500)]).encode())
    assert (report.totals["imported"], rejects) == (500, [])


@pytest.mark.parametrize("length", [1500, 3_000_000])
@pytest.mark.parametrize("between", [b",", b",\n"])
def test_an_element_that_is_too_long_is_told_and_passed_over(
    tmp_path: Path, monkeypatch, length: int, between: bytes
) -> None:
    monkeypatch.setattr(window_module, "RECORD_LIMIT", 1000)
    long = ELEMENTS[1].replace(b"hello", b"x" * length)
    data = array_of(ELEMENTS[0], long, *ELEMENTS[2:], between=between)
    report, (reject,) = run(tmp_path, data)
    assert (report.totals["imported"], reject["element"]) == (4, 2)
    assert "longer than 1000 characters" in reject["reason"]
    sizes = []
    more = window_module.Window._more
    monkeypatch.setattr(
        window_module.Window,
        "_more",
        lambda window: (more(window), sizes.append(len(window.buffer)))[0],
    )
    assert len(list(Source(tmp_path / "log.jsonl").records())) == 5
    assert max(sizes) < 2.1 * 2**20


@pytest.mark.parametrize("layout", ["array", "lines"])
def test_what_a_truncated_gzip_file_still_holds_goes_in(tmp_path: Path, layout: str) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.bytes(300).hex() for _ in range(400)]  # does not pack well
    records = [json.dumps({**numbered(n), "x": text}) for n, text in enumerate(noise)]
    text = "[" + ", ".join(records) + "]" if layout == "array" else "\n".join(records)
    data = gzip.compress(text.encode())
    report, (reject,) = run(tmp_path, data[: len(data) // 2])
    assert 180 < report.totals["imported"] < 200  # about a half
    assert "cannot be read to its end: Compressed file ended" in reject["reason"]
    damaged = bytearray(data)
    damaged[len(data) // 2 : len(data) // 2 + 100] = b"\xff" * 100
    report, _ = run(tmp_path, bytes(damaged), name="other.jsonl")
    assert report.totals["imported"] > 150


def test_an_array_on_one_line_tells_its_elements(tmp_path: Path) -> None:
    elements = [*ELEMENTS[:2], b'{"messages": []}', ELEMENTS[3], b"[]", b'{"reward": 1}']
    _, rejects = run(tmp_path, array_of(*elements))
    assert [(reject["line"], reject["element"]) for reject in rejects] == [(1, 3), (1, 5)]
    with pytest.raises(ValueError, match=r"log.jsonl, line 1, element 3: more than"):
        run(tmp_path, array_of(*elements), most=0)


class Exploding:
    def __reduce__(self) -> tuple:
        return os._exit, (3,)


@pytest.mark.parametrize("format_", sorted(READERS))
def test_a_pickle_is_never_loaded(tmp_path: Path, format_: str) -> None:
    for protocol in range(6):
        report, rejects = run(
            tmp_path, pickle.dumps([Exploding()], protocol), format_, f"trial_{protocol}.json"
        )
        assert "a Python pickle, which is never loaded" in rejects[-1]["reason"]
        assert report.totals["imported"] == 0


@pytest.mark.parametrize("data", [b"", b"hello\nworld", LINE, b"BEGIN TRIAL 1\n"])
def test_a_text_without_attempts_is_told(tmp_path: Path, data: bytes) -> None:
    report, (reject,) = run(tmp_path, data, "reflexion_hotpotqa", "log.txt")
    assert (report.totals["imported"], reject["line"]) == (0, 0)
    assert "there is no attempt in it" in reject["reason"]


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
