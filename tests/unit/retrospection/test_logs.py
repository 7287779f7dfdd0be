"""Triplets (failed attempt, reflection, gain) from logs of attempts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from retro_lightning.replay.store import ReplayStore
from retro_lightning.retrospection.logs import RETRY, LoggedReflections, triplets
from retro_lightning.retrospection.memory import Memory
from retro_lightning.trajectory import Trajectory
from tests.unit.retrospection.test_memory import attempt


def series(returns: list[float], *, task: str = "find the pen") -> list[Trajectory]:
    """Attempts, each told one more reflection than the one before."""
    return [
        replace(
            attempt(task, [("a box", f"open {number}", value)]),
            attempt=number,
            success=value == 1.0,
            reflections=tuple(f"lesson {earlier}" for earlier in range(number)),
        )
        for number, value in enumerate(returns)
    ]


def test_each_reflection_is_credited_with_the_attempt_after_it() -> None:
    made = list(triplets(series([0.0, 0.4, 0.1, 1.0, 1.0]), Memory(), "retro/", "r"))
    # The fourth attempt succeeded: nothing is reflected on after it.
    assert [t.steps[0].action for t in made] == ["lesson 0", "lesson 1", "lesson 2"]
    assert [t.total_return for t in made] == pytest.approx([0.4 - 0.0, 0.1 - 0.4, 1.0 - 0.1])
    assert [t.success for t in made] == [False, False, True]
    assert made[1].steps[0].observation == "a box > open 1: the end. return 0.4"
    assert made[0].task.family == "retro/t"
    assert made[0].task.instruction == "find the pen"
    assert made[0].task.split == "train"
    assert made[0].steps[0].valid_actions is None
    assert len({t.trajectory_id for t in made}) == 3


def test_a_retry_is_credited_where_several_attempts_come_before_any_reflection() -> None:
    first, second = (replace(each, reflections=()) for each in series([0.0, 0.2]))
    retries = [
        replace(each, attempt=RETRY + each.attempt, reflections=(f"of {each.attempt}",))
        for each in series([0.5, 1.0])
    ]
    made = list(triplets([*retries, second, first], Memory(), "", "r"))
    assert [t.steps[0].action for t in made] == ["of 0", "of 1"]
    assert [t.total_return for t in made] == pytest.approx([0.5 - 0.0, 1.0 - 0.2])


def test_what_teaches_nothing_is_left_out() -> None:
    plain = [replace(each, reflections=()) for each in series([0.0, 0.0])]
    assert list(triplets(plain, Memory(), "", "r")) == []
    gap = [each for each in series([0.0, 0.0, 1.0]) if each.attempt != 1]
    assert list(triplets(gap, Memory(), "", "r")) == []
    outcome = [
        replace(each, steps=(), outcome_return=each.total_return) for each in series([0.0, 1.0])
    ]
    assert list(triplets(outcome, Memory(), "", "r")) == []
    # An outcome record may end a pair.
    assert len(list(triplets([series([0.0])[0], outcome[1]], Memory(), "", "r"))) == 1
    fault = replace(
        series([0.0, 0.0])[1], terminated=False, truncated=True, truncation="fault", fault="x"
    )
    assert list(triplets([series([0.0])[0], fault], Memory(), "", "r")) == []


def test_runs_and_behaviours_are_not_mixed() -> None:
    one, other = series([0.0, 1.0])
    assert list(triplets([one, replace(other, run="another")], Memory(), "", "r")) == []
    assert list(triplets([one, replace(other, behaviour_id="b")], Memory(), "", "r")) == []


def test_as_a_history(tmp_path: Path) -> None:
    ReplayStore(tmp_path / "log", create=True).append(series([0.0, 0.5, 1.0]))
    history = LoggedReflections(str(tmp_path / "log"))
    path = history.materialise({}, tmp_path / "cache", 1)
    store = ReplayStore(path)
    assert [t.total_return for t in store.read(range(len(store)))] == [0.5, 0.5]
    assert history.materialise({}, tmp_path / "cache", 2) == path
    ReplayStore(tmp_path / "log").append(series([0.0, 0.25], task="find the cup"))
    again = history.materialise({}, tmp_path / "cache", 1)
    assert again != path
    assert len(ReplayStore(again)) == 3


def test_a_log_without_reflections(tmp_path: Path) -> None:
    ReplayStore(tmp_path / "log", create=True).append(series([0.0]))
    with pytest.raises(ValueError, match="holds no failed attempt that was reflected on"):
        LoggedReflections(str(tmp_path / "log")).materialise({}, tmp_path / "cache", 1)
