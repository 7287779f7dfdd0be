"""Histories: made once, whole, the same by seed, and named by what made them."""

from __future__ import annotations

import functools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentParser

from retro_lightning.environments.base import EnvironmentFactory
from retro_lightning.replay.store import ReplayStore
from retro_lightning.rollout import history as history_module
from retro_lightning.rollout.behaviours import Expert, NoisyExpert, RandomWalker
from retro_lightning.rollout.history import (
    BehaviourShare,
    History,
    ScriptedHistory,
    StoredHistory,
)
from retro_lightning.trajectory import Trajectory
from tests.support import CorridorEnv

ENVIRONMENTS: dict[str, EnvironmentFactory] = {
    "short": functools.partial(CorridorEnv, length=5),
    "long": functools.partial(CorridorEnv, length=8, max_steps=20),
}


def scripted(**changes: Any) -> ScriptedHistory:
    shares = [
        BehaviourShare(Expert(), share=0.5),
        BehaviourShare(NoisyExpert(0.3)),
        BehaviourShare(RandomWalker(), attempts=3),
    ]
    return ScriptedHistory(**{"tasks_per_family": 6, "behaviours": shares, **changes})


def make(history: History, cache: Path, seed: int = 1, **environments: Any) -> Path:
    return history.materialise(environments or ENVIRONMENTS, cache, seed)


def read(path: Path) -> list[Trajectory]:
    store = ReplayStore(path)
    return store.read(range(len(store)))


def test_who_attempts_what(tmp_path: Path) -> None:
    made = read(make(scripted(), tmp_path))
    # Per family of 6 tasks: expert on half of them, noisy expert once, walker three times each.
    assert Counter((t.task.family, t.source) for t in made) == {
        (family, source): count
        for family in ENVIRONMENTS
        for source, count in (
            ("scripted:expert", 3),
            ("scripted:noisy_expert", 6),
            ("scripted:random", 18),
        )
    }
    assert {t.task.split for t in made} == {"train"}
    assert len({t.trajectory_id for t in made}) == len(made) == 54
    assert {t.attempt for t in made if t.source == "scripted:random"} == {0, 1, 2}
    walks = [t for t in made if t.source == "scripted:random"]
    assert len({tuple(s.action for s in t.steps) for t in walks}) > 10  # attempts differ


def test_the_manifest_says_what_made_it_and_what_came_out(tmp_path: Path) -> None:
    path = make(scripted(), tmp_path)
    manifest = json.loads((path / "history.json").read_text())
    made = read(path)
    assert manifest["trajectories"] == len(made)
    assert manifest["seed"] == 1
    assert manifest["environments"]["long"]["length"] == 8
    for row in manifest["counts"]:
        mine = [
            t for t in made if (t.task.family, t.behaviour_id) == (row["family"], row["behaviour"])
        ]
        assert row["trajectories"] == len(mine)
        assert row["successes"] == sum(t.success for t in mine)
        assert row["faults"] == 0
    assert len(manifest["counts"]) == 6


def test_it_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(scripted(), tmp_path)
    monkeypatch.setattr(ScriptedHistory, "_write", None)  # to write again would raise
    assert make(scripted(), tmp_path) == path
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_same_seed_makes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "_SHARD", 7)
    one, two = (make(scripted(), tmp_path / name) for name in "ab")
    assert one.name == two.name
    assert read(one) == read(two)
    assert len(ReplayStore(one).snapshot()) == 8  # 54 trajectories in shards of 7


def test_whatever_makes_it_another_history_gives_it_another_name(tmp_path: Path) -> None:
    shares = [BehaviourShare(RandomWalker())]
    paths = [
        make(scripted(), tmp_path),
        make(scripted(), tmp_path, seed=2),
        make(scripted(tasks_per_family=5), tmp_path),
        make(scripted(tasks={"long": 5}), tmp_path),
        make(scripted(max_steps=4), tmp_path),
        make(scripted(behaviours=shares), tmp_path),
        make(scripted(behaviours=[BehaviourShare(RandomWalker(), attempts=2)]), tmp_path),
        make(scripted(behaviours=[BehaviourShare(NoisyExpert(0.2))]), tmp_path),
        make(scripted(behaviours=[BehaviourShare(NoisyExpert(0.3))]), tmp_path),
        make(scripted(), tmp_path, long=ENVIRONMENTS["long"]),
        make(scripted(), tmp_path, long=functools.partial(CorridorEnv, length=9)),
    ]
    assert len(set(paths)) == len(paths)


def test_an_interrupted_one_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "_SHARD", 5)
    run, calls = history_module.run_behaviour, iter(range(30))

    def interrupted(*args: Any, **kwargs: Any) -> Trajectory:
        if next(calls) == 20:
            raise KeyboardInterrupt
        return run(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(history_module, "run_behaviour", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make(scripted(), tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert len(read(make(scripted(), tmp_path))) == 54


def test_two_that_race_end_with_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = ScriptedHistory._write

    def overtaken(self: ScriptedHistory, *args: Any) -> None:
        write(self, *args)
        monkeypatch.setattr(ScriptedHistory, "_write", write)
        make(scripted(), tmp_path)  # the other process starts later and is done first

    monkeypatch.setattr(ScriptedHistory, "_write", overtaken)
    path = make(scripted(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert len(read(path)) == 54


def test_faults_are_recorded_and_counted_and_the_environment_is_made_anew(tmp_path: Path) -> None:
    class Fragile(CorridorEnv):
        """Breaks for good at the third step of an episode."""

        broken = False

        def step(self, action: str) -> Any:
            self.broken = self.broken or self.steps == 2
            if self.broken:
                raise RuntimeError("it broke")
            return super().step(action)

    path = make(scripted(), tmp_path, fragile=Fragile)
    made = read(path)
    faults = [t for t in made if t.truncation == "fault"]
    assert 0 < len(faults) < len(made) == 27
    assert all(
        "step 2: the environment raised RuntimeError: it broke" in str(t.fault) for t in faults
    )
    manifest = json.loads((path / "history.json").read_text())
    assert sum(row["faults"] for row in manifest["counts"]) == len(faults)


def test_a_family_that_only_faults_is_an_error_that_names_it(tmp_path: Path) -> None:
    broken = functools.partial(CorridorEnv, fault_at=0)
    with pytest.raises(
        ValueError, match=r"family 'broken': each of the first 5 .*the light went out"
    ):
        make(scripted(), tmp_path, broken=broken)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tasks_per_family": 0}, "tasks_per_family is 0"),
        ({"tasks": {"long": -1}}, r"tasks\.long is -1"),
        ({"tasks": {"lnog": 3}}, "names 'lnog', which is no family"),
        ({"tasks_per_family": 10_000}, r"has only \d+ distinct training tasks"),
        ({"behaviours": [BehaviourShare(Expert())] * 2}, "lists expert twice"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        make(scripted(**changes), tmp_path)
    with pytest.raises(ValueError, match="expert has attempts 0"):
        BehaviourShare(Expert(), attempts=0)
    with pytest.raises(ValueError, match=r"expert has share 1\.5"):
        BehaviourShare(Expert(), share=1.5)


def test_a_store_of_ones_own(tmp_path: Path) -> None:
    path = make(scripted(), tmp_path)
    assert make(StoredHistory(str(path)), tmp_path / "unused") == path
    assert not (tmp_path / "unused").exists()
    with pytest.raises(FileNotFoundError, match="no replay store at"):
        make(StoredHistory(str(tmp_path / "nowhere")), tmp_path)
    ReplayStore(tmp_path / "empty", create=True)
    with pytest.raises(ValueError, match="is empty: collect or import"):
        make(StoredHistory(str(tmp_path / "empty")), tmp_path)


def test_it_can_be_written_in_yaml() -> None:
    parser = ArgumentParser()
    parser.add_argument("--history", type=History)
    room = "retro_lightning.rollout"
    config = {
        "class_path": f"{room}.history.ScriptedHistory",
        "init_args": {
            "tasks_per_family": 7,
            "behaviours": [
                {
                    "behaviour": {
                        "class_path": f"{room}.behaviours.NoisyExpert",
                        "init_args": {"epsilon": 0.2},
                    },
                    "attempts": 2,
                },
                {"behaviour": {"class_path": f"{room}.behaviours.RandomWalker"}, "share": 0.5},
            ],
        },
    }
    made = parser.instantiate(parser.parse_object({"history": config})).history
    assert [s.behaviour.behaviour_id for s in made.behaviours] == [
        "noisy_expert(epsilon=0.2)",
        "random",
    ]
    assert [(s.attempts, s.share) for s in made.behaviours] == [(2, 1.0), (1, 0.5)]
