"""The ``replay`` command: forms that people script, sentences, and what is printed for people."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from retro_lightning.cli.main import main
from retro_lightning.replay import shard
from retro_lightning.replay.store import ReplayStore
from tests.support import random_trajectory

LOGS = Path(__file__).parents[2] / "data" / "logs"


def words(line: str, **paths: Path) -> list[str]:
    return [str(paths.get(word, word)) for word in line.split()]


def result(capsys: pytest.CaptureFixture[str], args: list[str], code: int = 0) -> dict:
    capsys.readouterr()
    assert main(args) == code
    return json.loads(capsys.readouterr().out)


def test_the_two_forms_that_people_script(tmp_path: Path, capsys) -> None:
    for format_, file, count, successes in (
        ("tau_bench", "tau_bench_garden.json", 4, 1),
        ("reflexion_hotpotqa", "hotpotqa_react_trials.txt", 6, 3),
        ("reflexion_alfworld", "env_results_trial_1.json", 3, 2),
        ("chat", "chat.jsonl", 3, 2),
        ("atif", "atif.json", 1, 1),
    ):
        store = str(tmp_path / format_)
        main(["replay", "import", "--format", format_, "--store", store, str(LOGS / file)])
        stats = result(capsys, ["replay", "stats", "--store", store, "--json"])
        assert (stats["trajectories"], stats["successes"]) == (count, successes)
        for table in (stats, *stats["by_family"].values(), *stats["by_attempt"].values()):
            keys = ("trajectories", "successes", "mean_return", "mean_length")
            assert set(keys) <= table.keys()
        capsys.readouterr()
        assert main(["replay", "stats", "--store", store]) == 0
        assert "mean return" in capsys.readouterr().out


def test_an_import_again_goes_on_and_tells(tmp_path: Path, capsys) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text((LOGS / "chat.jsonl").read_text() + "nonsense\n")
    args = words("replay import --format chat --store S F", S=tmp_path / "store", F=log)
    report = result(capsys, [*args, "--json"])
    assert (report["imported"], report["rejected"]) == (3, 1)
    assert report["files"][0]["file"] == str(log)
    assert main(args) == 0
    printed = capsys.readouterr().out
    assert "0 imported, 0 of them successes, 3 refused as duplicates, 1 rejected" in printed
    lines = Path(report["rejects"]).read_text().splitlines()
    assert [json.loads(line)["line"] for line in lines] == [4, 1, 2, 3, 4]
    assert main([*args, "--max-errors", "0"]) == 2
    assert "more than --max-errors 0 records were rejected" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("nonsense\nnothing\n", "nothing was imported: 2 rejected, see "),
        ("\n", "nothing was imported: there is no record of format chat in the files, give"),
        ("[]", "nothing was imported: there is no record of format chat in the files, give"),
    ],
)
def test_an_import_of_nothing_is_a_mistake(tmp_path: Path, capsys, text, sentence) -> None:
    (tmp_path / "log.jsonl").write_text(text)
    args = words(
        "replay import --format chat --store S F", S=tmp_path / "s", F=tmp_path / "log.jsonl"
    )
    assert main(args) == 2
    error = capsys.readouterr().err
    assert f"retro-lightning: {sentence}" in error
    assert len(error.splitlines()) == 1
    report = result(capsys, [*args, "--json"], 2)
    assert report["mistake"].startswith(sentence)
    assert main([*args, str(LOGS / "chat.jsonl")]) == 0


def test_a_reader_that_has_had_enough_hears_no_complaint(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    made = [random_trajectory(rng, number, steps=3) for number in range(300)]
    ReplayStore(tmp_path, create=True).append(made)
    command = f"{sys.executable} -m retro_lightning replay inspect --count 300 --store {tmp_path}"
    for option in ("", " --json"):
        done = subprocess.run(
            ["bash", "-c", f"{command}{option} | head -1; exit ${{PIPESTATUS[0]}}"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("replay import --format chat --store S", "required: FILE"),
        ("replay import --store S F", "retro-lightning: replay import: the following arguments"),
        ("replay import --format nonsense --store S F", "invalid choice: 'nonsense'"),
        ("replay import --format chat --store S nowhere.jsonl", "there is no file nowhere.jsonl"),
        ("replay import --format mapping --store S F", "needs --mapping FILE"),
        ("replay import --format mapping --mapping F --store S F", "log.jsonl"),
        ("replay import --format chat --max-errors -1 --store S F", "--max-errors is -1"),
        ("replay import --format mapping --mapping no.yaml --store S F", "name a YAML file"),
        ("replay import --format mapping --mapping H --store S F", "name a YAML file of what"),
        ("replay import --format chat --rejects N --store S F", "x: make it, or name another"),
        ("replay import --format chat --rejects H --store S F", "is a folder: name a file"),
        ("replay export --store H --format chat --output N", "x: make it, or name another"),
        ("replay export --store H --format chat --output H", "is a folder: name a file"),
        ("replay stats --store S", "no replay store at"),
        ("replay sort --store S", "invalid choice: 'sort'"),
        ("replay stats --store H --where os", "there is no column 'os'"),
        ("replay inspect --store H --row 99", "chooses 5 of 5 trajectories"),
        ("replay export --store H --format chat --output F", "exists already"),
        ("replay filter --store H --to H", "into itself"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, capsys, line: str, sentence: str) -> None:
    made = [random_trajectory(np.random.default_rng(1), number, steps=2) for number in range(5)]
    ReplayStore(tmp_path / "here", create=True).append(made)
    (tmp_path / "log.jsonl").write_text("[]")
    paths = {"S": tmp_path / "store", "H": tmp_path / "here", "F": tmp_path / "log.jsonl"}
    paths["N"] = tmp_path / "x" / "file"
    assert main(words(line, **paths)) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "store").exists()


def test_keeping_a_store(tmp_path: Path, capsys) -> None:
    rng = np.random.default_rng(0)
    made = [random_trajectory(rng, number, steps=2) for number in range(6)]
    store = ReplayStore(tmp_path / "a", create=True)
    for one in (*made, dataclasses.replace(made[0], attempt=9)):
        store.append([one])
    paths = {"A": tmp_path / "a", "B": tmp_path / "b", "C": tmp_path / "c"}

    def run(line: str, code: int = 0) -> dict:
        found = result(capsys, words(f"replay {line} --json", **paths), code)
        assert main(words(f"replay {line}", **paths)) == code
        return found

    assert run("filter --store A --to B --where attempt<3")["copied"] == 3
    deduped = run("dedupe --store A --to C")
    assert (deduped["copied"], deduped["left_out"]) == (6, 1)
    assert run("merge --store B C")["trajectories"] == 6
    compacted = run("compact --store A")
    assert (compacted["before"], compacted["after"], compacted["replaced"]) == (7, 1, 7)
    assert run("compact --store A --purge")["purged"] == 7
    assert run("verify --store A")["damaged"] == []
    assert run("drift --store A --against B")["trajectories"] == {"old": 6, "new": 7}
    file = next((tmp_path / "b").glob("*.arrow"))
    file.write_bytes(file.read_bytes()[:-9])
    (sentence,) = run("verify --store B", 1)["damaged"]
    assert file.name in sentence
    assert run("stats --store B", 1)["damaged"] == [sentence]
    moved = result(capsys, words("replay verify --store B --quarantine --json", **paths), 1)
    assert moved["damaged"] == [sentence]
    assert run("verify --store B")["damaged"] == []


def test_every_command_names_a_damaged_shard_and_serves_the_rest(tmp_path: Path, capsys) -> None:
    rng = np.random.default_rng(3)
    made = [random_trajectory(rng, number) for number in range(40)]
    made = [one for one in made if one.steps][:6]
    store = ReplayStore(tmp_path / "a", create=True)
    for pair in (made[:2], made[2:4], made[4:]):
        store.append(pair)
    store.refresh()
    paths = {"A": store.path, "B": tmp_path / "b", "F": LOGS / "chat.jsonl"}
    file = store.files[1]
    whole = file.read_bytes()

    def flipped(value: bytes, *, last: bool) -> None:
        place = whole.rindex(value) if last else whole.index(value)
        data = bytearray(whole)
        data[place + len(value) - 2] ^= 4
        file.write_bytes(data)

    def run(line: str, code: int = 1) -> dict:
        return result(capsys, words(f"replay {line} --json", **paths), code)

    # In the steps alone: it is found by what reads them.
    flipped(np.float64(made[2].steps[0].reward).tobytes(), last=True)
    (sentence,) = run("verify --store A")["damaged"]
    assert file.name in sentence
    seen = run("inspect --store A --count 9")
    assert [one["row"] for one in seen["trajectories"]] == [0, 1, 4, 5]
    assert seen["damaged"] == [sentence]
    drifted = run("drift --store A --against A")
    assert sentence in drifted["damaged"]
    compacted = run("compact --store A --purge")
    assert (compacted["after"], compacted["damaged"]) == (3, [sentence])
    # In a column of the index, or in an identity: nothing serves it.
    imported = 0
    for value in (np.float64(made[2].total_return).tobytes(), made[2].trajectory_id.encode()):
        flipped(value, last=False)
        numbers = run("stats --store A")
        assert (numbers["trajectories"], numbers["damaged"]) == (4 + imported, [sentence])
        if not imported:
            mean = np.mean([one.total_return for one in (*made[:2], *made[4:])])
            assert numbers["mean_return"] == pytest.approx(mean)
        taken = run("import --format chat --store A F")
        imported = 3
        assert taken["damaged"] == [sentence]
        assert run("verify --store A")["damaged"] == [sentence]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written(tmp_path: Path, capsys, monkeypatch, number: int) -> None:
    args = words(
        "replay import --format chat --store S F", S=tmp_path / "store", F=LOGS / "chat.jsonl"
    )

    def refuses(path: Path, *_: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    with monkeypatch.context() as patched:
        patched.setattr(shard, "_write", refuses)
        assert main(args) == 2
    error = capsys.readouterr().err
    assert f"cannot be written ({os.strerror(number)}), and these 3 trajectories" in error
    assert len(error.strip().splitlines()) == 1
    assert main(args) == 0
    assert len(ReplayStore(tmp_path / "store")) == 3


def test_inspect_shows_and_steers_no_terminal(tmp_path: Path, capsys) -> None:
    rng = np.random.default_rng(3)
    made = random_trajectory(rng, steps=2)
    step = dataclasses.replace(made.steps[0], action="\x1b[2Jgo [red]", log_prob=np.log(0.25))
    made = dataclasses.replace(made, steps=(step, *made.steps[1:]))
    ReplayStore(tmp_path, create=True).append([made])
    assert main(["replay", "inspect", "--store", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "go [red]  p=0.250" in printed
    shown = result(capsys, ["replay", "inspect", "--store", str(tmp_path), "--json"])
    assert shown["trajectories"][0]["steps"][0]["action"] == step.action


def test_exports_are_written(tmp_path: Path, capsys) -> None:
    rng = np.random.default_rng(0)
    made = [random_trajectory(rng, number) for number in range(30)]
    ReplayStore(tmp_path / "a", create=True).append(made)
    for format_ in ("chat", "parquet", "preference", "sft"):
        out = tmp_path / f"out.{format_}"
        line = f"replay export --store A --format {format_} --output O --json"
        report = result(capsys, words(line, A=tmp_path / "a", O=out))
        assert report["written"] > 0
        assert out.exists()
    assert (
        main(
            words(
                "replay export --store A --format sft --output O",
                A=tmp_path / "a",
                O=tmp_path / "again",
            )
        )
        == 0
    )
    assert "trajectories without steps were left out" in capsys.readouterr().out


def test_replay_lists_its_commands_without_torch() -> None:
    code = (
        "import sys, time; begun = time.perf_counter()\n"
        "from retro_lightning.cli.main import main\n"
        "codes = [main(['replay', '--help']), main(['replay'])]\n"
        "import retro_lightning.cli.replay_files, retro_lightning.cli.replay_look\n"
        "import retro_lightning.cli.replay_keep\n"
        "heavy = [m for m in ('torch', 'lightning', 'mlflow') if m in sys.modules]\n"
        "print(codes, heavy, time.perf_counter() - begun < 2)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "[0, 2] [] True"
    assert "import    take in logs of other agents" in done.stdout
