"""Environments that are reset and stepped in one call for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pytest

import tiny
from retro_lightning.environments.base import make_tasks
from retro_lightning.rollout.batched import reset_all, step_all
from retro_lightning.rollout.collector import Job, collect
from retro_lightning.trajectory import Trajectory
from tests.support import CorridorEnv


class Together(CorridorEnv):
    """A corridor with a batched form that counts its calls and can be told to misbehave."""

    calls: ClassVar[list[tuple[str, int]]] = []
    bad: ClassVar[Any] = None

    @staticmethod
    def reset_many(environments: Sequence[Any], seeds: Sequence[int]) -> list[Any]:
        Together.calls.append(("reset", len(environments)))
        pairs = zip(environments, seeds, strict=True)
        return Together.bent("reset", [env.reset(seed=seed) for env, seed in pairs])

    @staticmethod
    def step_many(environments: Sequence[Any], actions: Sequence[str]) -> list[Any]:
        Together.calls.append(("step", len(environments)))
        pairs = zip(environments, actions, strict=True)
        return Together.bent("step", [env.step(action) for env, action in pairs])

    @staticmethod
    def bent(name: str, results: list[Any]) -> list[Any]:
        return results if Together.bad is None else Together.bad(name, results)


@pytest.fixture(autouse=True)
def sober() -> None:
    Together.calls.clear()
    Together.bad = None


def jobs(count: int = 6) -> list[Job]:
    return [Job(task, 0) for task in make_tasks("corridor", CorridorEnv, "train", count)]


def run(env: type[CorridorEnv], **kwargs: Any) -> list[Trajectory]:
    options = {"run": "test", "seed": 1, "batch_size": 4, **kwargs}
    return list(collect(tiny.policy(), {"corridor": env}, jobs(), **options))


def told(trajectories: Sequence[Trajectory]) -> list[Any]:
    """What happened; log-probabilities may differ in their last digits."""
    return [
        (t.task, t.success, t.fault, [(s.observation, s.action, s.reward) for s in t.steps])
        for t in trajectories
    ]


def test_one_call_per_turn_and_the_same_trajectories_as_one_by_one() -> None:
    together = run(Together)
    calls = list(Together.calls)
    assert told(together) == told(run(CorridorEnv))
    # Six jobs, four at a time: a group of 4 and one of 2, each reset in one call.
    assert [call for call in calls if call[0] == "reset"] == [("reset", 4), ("reset", 2)]
    lengths = [trajectory.length for trajectory in together]
    expected = [
        ("step", sum(length > turn for length in group))
        for group in (lengths[:4], lengths[4:])
        for turn in range(max(group))
    ]
    assert [call for call in calls if call[0] == "step"] == expected


def test_families_of_several_classes_are_stepped_apart() -> None:
    one, two, three = Together(), CorridorEnv(), Together()
    openings = reset_all([one, two, three], [5, 6, 7])
    assert openings[1] is None  # left to be reset by itself
    assert openings[0] == Together().reset(seed=5)
    assert openings[2] == Together().reset(seed=7)
    two.reset(seed=6)
    results = step_all([one, two, three], ["stop", "stop", "stop"])
    assert results[1] is None
    assert [result[2] for result in (results[0], results[2])] == [True, True]
    assert Together.calls == [("reset", 2), ("step", 2)]


def test_an_exception_in_place_of_one_result_faults_that_episode_alone() -> None:
    def second(name: str, results: list[Any]) -> list[Any]:
        if name == "step" and len(results) > 1:
            results[1] = RuntimeError("no answer")
        return results

    Together.bad = second
    out = run(Together)
    faulted = [t for t in out if t.truncation == "fault"]
    assert len(faulted) >= 2
    assert all(
        "step" in str(t.fault) and "RuntimeError: no answer" in str(t.fault) for t in faulted
    )
    assert any(t.truncation != "fault" for t in out)


@pytest.mark.parametrize("name", ["reset", "step"])
def test_an_exception_inside_faults_all_that_were_asked_and_the_run_goes_on(name: str) -> None:
    def broken(called: str, results: list[Any]) -> list[Any]:
        if called == name and len(results) == 4:
            raise ConnectionError("the server is away")
        return results

    Together.bad = broken
    out = run(Together)
    assert len(out) == 6
    assert [t.truncation == "fault" for t in out] == [True] * 4 + [False] * 2
    assert all("ConnectionError: the server is away" in str(t.fault) for t in out[:4])
    assert all(t.length == (0 if name == "reset" else 1) for t in out[:4])


def test_results_that_do_not_match_in_number_are_a_fault() -> None:
    Together.bad = lambda name, results: results[:-1]
    out = run(Together)
    assert {t.truncation for t in out} == {"fault"}
    assert "3 results for 4 environments" in str(out[0].fault)


def test_one_method_alone_is_no_batched_form() -> None:
    class Half(CorridorEnv):
        @staticmethod
        def step_many(environments: Sequence[Any], actions: Sequence[str]) -> list[Any]:
            raise AssertionError

    assert told(run(Half)) == told(run(CorridorEnv))
