"""Frozen reflectors, and actors that a run publishes while it trains."""

from __future__ import annotations

from pathlib import Path

import pytest

from retro_lightning.environments.base import make_tasks
from retro_lightning.environments.proving_ground import LockedDoor
from retro_lightning.retrospection.actor import (
    PolicyActor,
    PublishedActor,
    Request,
    published_version,
)
from retro_lightning.retrospection.memory import Memory
from retro_lightning.retrospection.reflectors import PolicyReflector, ScriptedReflector
from retro_lightning.trajectory import Trajectory
from tests.tiny import policy
from tests.unit.retrospection.scenes import Counting

TASKS = make_tasks("door", LockedDoor, "train", 40)
ATTEMPTS = [
    (LockedDoor, t)
    for t in Counting("reflectors").attempt([Request(LockedDoor, task, 0) for task in TASKS])
]


def helps(attempt: Trajectory, reflection: str) -> bool:
    door = LockedDoor()
    door.reset(seed=attempt.task.seed)
    return {door._subject, door._secret} <= set(reflection.split())


def test_scripted_reflections_help_as_often_as_asked() -> None:
    always = ScriptedReflector(helpful=1.0).write(ATTEMPTS, seed=1)
    never = ScriptedReflector(helpful=0.0).write(ATTEMPTS, seed=1)
    pairs = list(zip(ATTEMPTS, always, never, strict=True))
    assert all(helps(attempt, str(good)) for (_, attempt), good, _ in pairs)
    assert not any(helps(attempt, str(bad)) for (_, attempt), _, bad in pairs)
    assert ScriptedReflector(0.5).write(ATTEMPTS, 1) == ScriptedReflector(0.5).write(ATTEMPTS, 1)


def test_a_policy_reads_the_attempt_and_writes(tmp_path: Path) -> None:
    policy(context=1024).save(tmp_path / "p")
    reflector = PolicyReflector(str(tmp_path / "p"), Memory(reflection_words=200))
    some = ATTEMPTS[:5]
    written = reflector.write(some, seed=1)
    assert len(written) == 5
    assert len({text for text in written if text}) > 1
    assert reflector.write(some, seed=1) == written
    assert reflector.write(some, seed=2) != written
    # What can't be used is not told.
    strict = PolicyReflector(str(tmp_path / "p"), Memory(reflection_words=1))
    assert strict.write(some, seed=1).count(None) >= 4


def test_a_reflector_that_is_not_there_yet_writes_nothing(tmp_path: Path) -> None:
    assert PolicyReflector(str(tmp_path)).write(ATTEMPTS[:2], seed=1) == [None, None]


def test_a_published_actor_is_another_until_there_is_one_and_then_the_latest(
    tmp_path: Path,
) -> None:
    path = str(tmp_path / "published")
    start = Counting("start")
    actor = PublishedActor(path, start)
    requests = [Request(LockedDoor, task, 0) for task in TASKS[:3]]
    assert actor.key == "start"
    assert actor.attempt(requests) == start.attempt(requests)
    keys = {actor.key}
    for version in (5, 9):
        made = policy(context=1024)
        made.version = version
        made.save(path)
        assert published_version(path) == version
        keys.add(actor.key)
        assert {t.policy_version for t in actor.attempt(requests)} == {version}
        assert actor.attempt(requests) == PolicyActor(path).attempt(requests)
    assert len(keys) == 3


def test_impossible_share() -> None:
    with pytest.raises(ValueError, match=r"helpful is 2\.0"):
        ScriptedReflector(2.0)
