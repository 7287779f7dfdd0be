"""Rows between stores, exports and their way back, statistics and drift."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from retro_lightning.replay import copying
from retro_lightning.replay.copying import copy, first_of_each
from retro_lightning.replay.drift import drift
from retro_lightning.replay.formats import exporting
from retro_lightning.replay.formats.importing import import_files
from retro_lightning.replay.formats.items import Options
from retro_lightning.replay.formats.readers import READERS
from retro_lightning.replay.statistics import statistics
from retro_lightning.replay.store import ReplayStore
from retro_lightning.trajectory import Step, Task, Trajectory
from tests.support import random_trajectory


def many(count: int, seed: int = 0) -> list[Trajectory]:
    rng = np.random.default_rng(seed)
    return [random_trajectory(rng, number) for number in range(count)]


def stored(path: Path, made: list[Trajectory], shard: int = 7) -> ReplayStore:
    store = ReplayStore(path, create=True)
    for start in range(0, len(made), shard):
        store.append(made[start : start + shard])
    store.refresh()
    return store


def talk(task: str, attempt: int, reward: float, *actions: str) -> Trajectory:
    return Trajectory(
        task=Task(task_id=f"f:{task}", family="f", instruction="Be kind.", seed=0, split="train"),
        steps=tuple(
            Step(
                observation=f"seen {n}",
                valid_actions=None,
                action=action,
                reward=reward * (n + 1 == len(actions)),
                thought="hm" if n else None,
            )
            for n, action in enumerate(actions)
        ),
        final_observation="bye",
        final_valid_actions=None,
        terminated=True,
        truncated=False,
        truncation=None,
        success=reward > 0,
        source="import:chat",
        behaviour_id="me",
        run="log",
        attempt=attempt,
    )


def test_rows_are_copied_once_and_in_order(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(copying, "_ROWS", 10)
    made = many(40)
    source, target = stored(tmp_path / "a", made), ReplayStore(tmp_path / "b", create=True)
    mask = np.arange(40) % 3 == 0
    assert copy(source, target, mask).copied == 14
    assert target.read(range(14)) == made[::3]
    again = copy(source, target, np.ones(40, dtype=bool))
    assert (again.copied, again.duplicates, again.conflicts) == (26, 14, 0)
    other = [dataclasses.replace(made[0], final_observation="another")]
    done = copy(stored(tmp_path / "c", other), target, np.ones(1, dtype=bool))
    assert (done.copied, done.conflicts) == (0, 1)
    with pytest.raises(ValueError, match="into itself"):
        copy(source, source, mask)


def test_damaged_shards_are_named_and_the_rest_copied(tmp_path: Path) -> None:
    made = many(21)
    source = stored(tmp_path / "a", made)
    file = tmp_path / "a" / f"{source.snapshot()[1]}.arrow"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    target = ReplayStore(tmp_path / "b", create=True)
    done = copy(ReplayStore(tmp_path / "a"), target, np.ones(21, dtype=bool))
    assert done.copied == 14
    assert file.name in done.damaged[0]
    assert target.read(range(14)) == made[:7] + made[14:]


def test_the_first_of_each_content(tmp_path: Path) -> None:
    made = many(6)
    repeated = [dataclasses.replace(t, attempt=t.attempt + 50) for t in made[:2]]
    store = stored(tmp_path, [*made, *repeated])
    assert first_of_each(store).tolist() == [True] * 6 + [False] * 2


def test_chat_comes_back_word_by_word(tmp_path: Path) -> None:
    made = [
        talk("0" * 32, 0, 1.0, 'look({"at": "fern"})', "It is dry.", "plain (text)"),
        talk("0" * 32, 1, 0.0, "nothing"),
        dataclasses.replace(talk("1" * 32, 0, 0.5, "go"), reflections=("once",)),
    ]
    store = stored(tmp_path / "a", made)
    done = exporting.export(store, np.ones(3, dtype=bool), "chat", tmp_path / "log.jsonl")
    assert (done.written, done.left_out) == (3, 0)
    back = ReplayStore(tmp_path / "b", create=True)
    options = Options(run="log")
    import_files(
        back,
        [tmp_path / "log.jsonl"],
        "chat",
        READERS["chat"],
        options,
        rejects=tmp_path / "r",
        max_errors=0,
    )
    for one, other in zip(made, back.read(range(3)), strict=True):
        split = other.task.split  # follows from the task's hash
        assert dataclasses.replace(one, task=dataclasses.replace(one.task, split=split)) == other
    with pytest.raises(FileExistsError, match="exists already"):
        exporting.export(store, np.ones(3, dtype=bool), "chat", tmp_path / "log.jsonl")


def test_parquet_keeps_everything(tmp_path: Path) -> None:
    made = many(30)
    store = stored(tmp_path / "a", made)
    done = exporting.export(store, np.ones(30, dtype=bool), "parquet", tmp_path / "x.parquet")
    assert done.written == 30
    back = ReplayStore(tmp_path / "b", create=True)
    import_files(
        back,
        [tmp_path / "x.parquet"],
        "parquet",
        READERS["parquet"],
        Options(),
        rejects=tmp_path / "r",
        max_errors=0,
    )
    assert back.read(range(30)) == [dataclasses.replace(t, source="import:parquet") for t in made]


def test_sft_and_preference_sets(tmp_path: Path) -> None:
    best, good = talk("a", 0, 1.0, "win", "stop"), talk("a", 1, 0.5, "draw")
    bad, worst = talk("a", 2, 0.25, "dawdle"), talk("a", 3, 0.0, "lose")
    alone, outcome = talk("b", 0, 1.0, "x"), talk("a", 4, 0.0)
    outcome = dataclasses.replace(outcome, outcome_return=0.0)
    store = stored(tmp_path / "a", [worst, best, alone, bad, good, outcome])
    every = np.ones(6, dtype=bool)
    done = exporting.export(store, every, "preference", tmp_path / "p.jsonl")
    pairs = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    # best with worst (1 > 0), second with third (0.5 > 0.25); no pair for the task tried once.
    assert (done.written, done.left_out) == (2, 1)
    prompt = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "seen 0"}]
    assert [pair["prompt"] for pair in pairs] == [prompt, prompt]
    assert pairs[0]["chosen"] == [
        {"role": "assistant", "content": "win"},
        {"role": "user", "content": "seen 1"},
        {"role": "assistant", "content": "hm\nstop"},
    ]
    assert pairs[0]["rejected"] == [{"role": "assistant", "content": "lose"}]
    equals = stored(tmp_path / "b", [talk("c", 0, 1.0, "x"), talk("c", 1, 1.0, "y")])
    assert list(exporting.pairs(equals.index, np.ones(2, dtype=bool))) == []
    exporting.export(store, np.arange(6) == 1, "sft", tmp_path / "s.jsonl")
    (record,) = map(json.loads, (tmp_path / "s.jsonl").read_text().splitlines())
    assert record == {"messages": [*prompt, *pairs[0]["chosen"]]}


def test_statistics_against_a_naive_count(tmp_path: Path) -> None:
    made = many(80)
    stats = statistics(stored(tmp_path, made).index)
    sound = [t for t in made if t.truncation != "fault"]
    assert stats["trajectories"] == 80
    assert stats["faulted"] == 80 - len(sound)
    assert stats["successes"] == sum(t.success for t in sound)
    counts = [stats[name] for name in ("successes", "failures", "truncated", "faulted")]
    assert sum(counts) == 80
    assert stats["mean_return"] == pytest.approx(np.mean([t.total_return for t in sound]))
    steps = [t.length for t in sound if t.length]
    assert stats["mean_length"] == pytest.approx(np.mean(steps))
    assert stats["by_family"].keys() == {t.task.family for t in made}
    for name, table in stats["by_family"].items():
        assert table["trajectories"] == sum(t.task.family == name for t in made)
    assert [t["trajectories"] for t in stats["by_attempt"].values()] == [1] * 80
    assert statistics(ReplayStore(tmp_path / "empty", create=True).index)["mean_return"] is None


def test_drift_is_seen_and_its_absence_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def log(name: str, chance: float, verb: str, count: int = 300) -> ReplayStore:
        made = [
            talk(f"{number % 20}", number, float(rng.random() < chance), verb, f"say({number})")
            for number in range(count)
        ]
        return stored(tmp_path / name, made, shard=1000)

    old = log("old", 0.5, "push")
    same, other = drift(old, log("same", 0.5, "push")), drift(old, log("new", 0.8, "pull"))
    assert same["drifted"] == []
    assert same["tasks"]["known_share"] == 1.0
    assert other["drifted"] == ["actions", "returns"]
    # Half of the actions are "push" or "pull", half "say": the distance is exactly one half.
    assert other["actions"]["distance"] == pytest.approx(0.5)
    table = other["returns"]["families"]["f"]["success_rate"]
    assert table["new"] - table["old"] > 0.2
    # Standard error of a difference of shares of 300 each: sqrt(2 * 0.25 / 300) = 0.041 at most.
    assert 0 < table["standard_error"] < 0.041
    empty = drift(old, ReplayStore(tmp_path / "empty", create=True))
    assert empty["drifted"] == []
