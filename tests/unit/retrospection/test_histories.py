"""Scripted histories: what an actor learns hints from, and what a reflector starts from."""

from __future__ import annotations

import functools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from retro_lightning.environments.base import make_tasks
from retro_lightning.environments.proving_ground import HiddenObject, LockedDoor
from retro_lightning.replay.store import ReplayStore
from retro_lightning.retrospection.hints import HintedHistory
from retro_lightning.retrospection.scripted import (
    ReflectionLog,
    oracle,
    placebo,
    plain,
    reflect,
)
from retro_lightning.trajectory import Trajectory
from tests.support import CorridorEnv
from tests.unit.retrospection.scenes import Counting, scene


def read(path: Path) -> list[Trajectory]:
    store = ReplayStore(path)
    return store.read(range(len(store)))


def subject(trajectory: Trajectory) -> str:
    return trajectory.task.instruction.split()[-1]


def names_the_secret(trajectory: Trajectory, reflection: str) -> bool:
    door = LockedDoor()
    door.reset(seed=trajectory.task.seed)
    words = reflection.split()
    return subject(trajectory) in words and door._secret in words


def test_hinted_attempts_succeed_and_others_succeed_by_chance(tmp_path: Path) -> None:
    history = HintedHistory(tasks_per_family=60, attempts=4, hinted_share=0.5, epsilon=1.0)
    made = read(history.materialise({"door": LockedDoor}, tmp_path, 1))
    assert len(made) == 240
    assert {t.task.split for t in made} == {"train"}
    helped = [t for t in made if any(names_the_secret(t, r) for r in t.reflections)]
    others = [t for t in made if t not in helped]
    # Half of 240 are helped; 3 standard deviations are 3 * sqrt(240 / 4) = 23.
    assert abs(len(helped) - 120) <= 23
    assert all(t.success for t in helped)
    # One key of 6, one door of 3.
    assert sum(t.success for t in others) / len(others) < 0.2
    assert {len(t.reflections) for t in helped} == {1, 2, 3}
    bare = sum(t.reflections == () for t in others) / len(others)
    assert abs(bare - 0.4) < 0.15


def test_a_wrong_reflection_never_comes_after_the_helpful_one_nor_alone(tmp_path: Path) -> None:
    history = HintedHistory(tasks_per_family=100, attempts=4)
    wrong = 0
    for trajectory in read(history.materialise({"door": LockedDoor}, tmp_path, 1)):
        speaking = [r for r in trajectory.reflections if subject(trajectory) in r.split()]
        if speaking:
            assert names_the_secret(trajectory, speaking[-1])
            wrong += len(speaking) - 1
    assert wrong > 10


def test_hints_need_an_environment_that_writes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="family 'x': CorridorEnv has no write_reflection"):
        HintedHistory(1, 1).materialise({"x": CorridorEnv}, tmp_path, 1)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"attempts": 0}, "attempts is 0; give at least 1"),
        ({"hinted_share": 1.5}, "hinted_share is 1.5; give a share between 0 and 1"),
    ],
)
def test_impossible_hints(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        HintedHistory(**settings)


def test_a_log_of_mixed_quality(tmp_path: Path) -> None:
    environments = {"retro/door": scene(Counting("log"), retries=1)}
    log = ReflectionLog(tasks_per_family=200)
    path = log.materialise(environments, tmp_path, 1)
    made = read(path)
    assert len(made) == 200
    assert all(t.length == 1 and t.steps[0].valid_actions is None for t in made)
    good = [t for t in made if names_the_secret(t, t.steps[0].action)]
    # A quarter of 200 helps; 3 standard deviations are 3 * sqrt(200 * 3 / 16) = 18. Under 40 %.
    assert abs(len(good) - 50) <= 18
    assert all(t.success and t.steps[0].reward == 1.0 for t in good)
    assert len(set(t.steps[0].action for t in made)) > 50
    # Made once; the key of the actor is part of the name.
    assert log.materialise(environments, tmp_path, 1) == path
    other = {"retro/door": scene(Counting("another"), retries=1)}
    assert log.materialise(other, tmp_path, 1) != path
    assert json.loads((path / "history.json").read_text())["actors"] == {"retro/door": "log"}


def test_shares_of_a_log_must_add_up() -> None:
    with pytest.raises(ValueError, match="not all at least 0 with a sum of 1"):
        ReflectionLog(helpful=0.5)


def test_a_log_needs_reflections() -> None:
    with pytest.raises(ValueError, match="family 'x' is a CorridorEnv; reflections are written"):
        ReflectionLog(1).materialise({"x": CorridorEnv}, Path(), 1)


def test_scripted_reflectors_in_long_episodes() -> None:
    make = scene(Counting("long"), retries=3)
    tasks = make_tasks("door", make, "train", 30)
    runs = {
        write.__name__: list(
            reflect("door", make, tasks, write, run="r", seed=1, name=write.__name__)
        )
        for write in (plain, placebo, oracle)
    }
    assert [t.task for t in runs["oracle"]] == tasks
    assert all(t.success and t.length == 1 for t in runs["oracle"])
    # Plain retries and placebos are other words and the same noise: the same outcomes.
    assert [t.success for t in runs["plain"]] == [t.success for t in runs["placebo"]]
    assert {t.length for t in runs["plain"]} == {1, 2, 3}
    assert Counter(s.action for t in runs["plain"] for s in t.steps).keys() == {""}
    for trajectory in runs["plain"]:
        assert trajectory.success == (trajectory.steps[-1].reward == 1.0)
        assert trajectory.steps[0].observation.endswith("return 0")


def test_a_fault_of_one_episode_is_recorded() -> None:
    make = functools.partial(scene(Counting("bad"), retries=2))
    tasks = make_tasks("door", make, "train", 3)

    def write(env: Any, rng: Any) -> str:
        return "" if env.task == tasks[1] or env.task.seed == tasks[1].seed else "try again"

    made = list(reflect("door", make, tasks, write, run="r", seed=1, name="bad"))
    assert [t.truncation for t in made] == [None, "fault", None]
    assert "the reflection is empty" in str(made[1].fault)
    assert made[1].success is False


def test_kinds_can_be_mixed_in_one_history(tmp_path: Path) -> None:
    kinds = {"door": LockedDoor, "search": HiddenObject}
    made = read(HintedHistory(5, 2).materialise(kinds, tmp_path, 1))
    assert Counter(t.task.family for t in made) == {"door": 10, "search": 10}
