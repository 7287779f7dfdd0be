"""Collecting trajectories: determinism, order, faults, limits, exact records."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import tiny
from retro_lightning.environments.base import make_tasks
from retro_lightning.policy.batch import collate
from retro_lightning.rollout.collector import Job, collect
from retro_lightning.trajectory import Task, Trajectory

MENUS = (tiny.ACTIONS, ("go", "go on"), ("turn left",))


class Chatter(gymnasium.Env[str, str]):
    """Random words; an episode's length is drawn from its seed; solved by chance."""

    made = 0
    closed = 0

    def __init__(self, raises_at: int = -1, words: int = 6) -> None:
        Chatter.made += 1
        self._raises_at, self._words = raises_at, words

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        self._rng = np.random.default_rng(seed)
        self._left = int(self._rng.integers(1, 9))
        self._turn = 0
        return self._observe(), {"instruction": f"say {seed}", "valid_actions": MENUS[0]}

    def _observe(self) -> str:
        return tiny.text(self._rng, int(self._rng.integers(1, 2 + self._words)))

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        assert action in MENUS[self._turn % 3]
        if self._turn == self._raises_at:
            raise RuntimeError("the wire is cut")
        self._turn += 1
        self._left -= 1
        over = self._left == 0
        info = {"valid_actions": MENUS[self._turn % 3], "success": over and action == "go"}
        return self._observe(), float(over), over, False, info

    def close(self) -> None:
        Chatter.closed += 1


def tasks(count: int) -> list[Task]:
    return make_tasks("chatter", Chatter, "train", count)


def run(policy, jobs, **kwargs: Any) -> list[Trajectory]:
    options = {"run": "test", "seed": 3, "batch_size": 4, **kwargs}
    return list(collect(policy, {"chatter": Chatter}, jobs, **options))


@pytest.fixture(scope="module")
def policy():
    return tiny.policy()


def jobs_of(count: int) -> list[Job]:
    return [Job(task, attempt) for task in tasks(count) for attempt in range(2)]


def test_one_trajectory_per_job_in_their_order(policy) -> None:
    jobs = jobs_of(5)
    progress: list[int] = []
    out = run(policy, jobs, on_progress=progress.append)
    assert [Job(t.task, t.attempt) for t in out] == jobs
    assert progress == [1] * 10
    assert {t.source for t in out} == {"rollout"}
    assert {t.behaviour_id for t in out} == {"policy-0"}
    assert all(t.terminated and t.length >= 1 for t in out)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_an_episode_depends_on_its_own_seeds_alone(policy, batch_size: int) -> None:
    jobs = jobs_of(4)
    whole = run(policy, jobs)
    others = run(policy, jobs[::-1], batch_size=batch_size)[::-1]
    for one, two in zip(whole, others, strict=True):
        assert [s.action for s in one.steps] == [s.action for s in two.steps]
        np.testing.assert_allclose(
            [s.log_prob for s in one.steps], [s.log_prob for s in two.steps], atol=1e-4
        )
    assert run(policy, jobs) == whole


def test_seed_attempt_version_and_arm_each_change_the_actions(policy) -> None:
    def actions(attempt: int = 0, **kwargs: Any) -> list[str]:
        jobs = [Job(task, attempt) for task in tasks(6)]
        return [s.action for t in run(policy, jobs, **kwargs) for s in t.steps]

    base = actions()
    assert len(base) > 12
    changed = [actions(seed=4), actions(arm="val"), actions(attempt=1)]
    policy.version = 1
    changed.append(actions())
    policy.version = 0
    assert all(other != base for other in changed)
    assert actions() == base


def test_records_agree_with_training_to_a_ten_thousandth(policy) -> None:
    out = run(policy, jobs_of(6), record_distribution=True)
    batch = collate(policy.transcript.encode_many(out), out)
    with torch.no_grad():
        now = policy.evaluate(batch)
    mask = batch.steps_BS
    torch.testing.assert_close(
        batch.behaviour_logprobs_BS[mask], now.logprobs_BS[mask], atol=1e-4, rtol=0
    )
    torch.testing.assert_close(
        batch.recorded_values_BS[mask], now.values_BS[mask], atol=1e-4, rtol=0
    )
    for trajectory in out:
        assert trajectory.tokenizer == policy.transcript.fingerprint
        for step, every in zip(trajectory.steps, policy.action_log_probs(trajectory), strict=True):
            np.testing.assert_allclose(step.log_probs, every, atol=1e-4)


def test_reflections_are_told_recorded_and_learnt_from_as_told(policy) -> None:
    told = ("the door is near", "turn left")
    jobs = [Job(task, 1, told if number % 2 else ()) for number, task in enumerate(tasks(6))]
    out = run(policy, jobs)
    assert [t.reflections for t in out] == [job.reflections for job in jobs]
    encoded = policy.transcript.encode_many(out)
    for trajectory, tokens in zip(out, (item.tokens for item in encoded), strict=True):
        text = policy.tokenizer.decode(tokens)
        restated = "Reflection: the door is near\nReflection: turn left\nTask:"
        assert text.count(restated) == (trajectory.length if trajectory.reflections else 0)
    batch = collate(encoded, out)
    with torch.no_grad():
        now = policy.evaluate(batch).logprobs_BS
    mask = batch.steps_BS
    torch.testing.assert_close(batch.behaviour_logprobs_BS[mask], now[mask], atol=1e-4, rtol=0)


def test_greedy_is_the_same_for_every_seed_and_claims_no_log_prob(policy) -> None:
    one, two = (run(policy, jobs_of(2), greedy=True, seed=seed) for seed in (1, 2))
    assert one == two
    assert all(s.log_prob is None and s.log_probs is None for t in one for s in t.steps)
    assert {t.behaviour_id for t in one} == {"policy-0-greedy"}


def test_collector_limit(policy) -> None:
    for trajectory in run(policy, jobs_of(6), max_steps=3):
        assert trajectory.length <= 3
        assert trajectory.terminated or trajectory.truncation == "collector_limit"


def test_full_context_ends_the_episode_and_everything_still_fits() -> None:
    small = tiny.policy(context=180)
    out = run(small, jobs_of(12))
    assert {t.truncation for t in out} >= {"context_full", None}
    for trajectory in out:
        encoded = small.transcript.encode(trajectory)
        assert encoded.steps == trajectory.length
        assert len(encoded.tokens) <= 180


def test_a_broken_environment_is_a_recorded_fault_and_the_others_go_on(policy) -> None:
    class Broken(Chatter):
        def __init__(self) -> None:
            super().__init__(raises_at=5)

    jobs = jobs_of(10)
    out = list(collect(policy, {"chatter": Broken}, jobs, run="test", seed=3, batch_size=4))
    assert len(out) == len(jobs)
    long = [t for t in out if t.truncation == "fault"]
    assert long
    assert all("the wire is cut" in str(t.fault) for t in long)
    assert any(t.truncation is None for t in out)


def test_a_reset_that_raises_is_a_recorded_fault(policy) -> None:
    class Dead(Chatter):
        def reset(self, **kwargs: Any) -> tuple[str, dict[str, Any]]:
            raise RuntimeError("no power")

    out = list(collect(policy, {"chatter": Dead}, jobs_of(3), run="test", seed=3, batch_size=4))
    assert len(out) == 6
    assert {t.truncation for t in out} == {"fault"}
    assert {t.length for t in out} == {0}


def test_environments_are_reused_and_closed(policy) -> None:
    Chatter.made = Chatter.closed = 0
    jobs = jobs_of(10)
    made = Chatter.made
    run(policy, jobs)
    assert Chatter.made - made == 4
    assert Chatter.closed == Chatter.made
    some: Iterator[Trajectory] = collect(
        policy, {"chatter": Chatter}, jobs, run="test", seed=3, batch_size=4
    )
    next(some)
    some.close()  # type: ignore[attr-defined]
    assert Chatter.closed == Chatter.made


def test_bad_input_is_refused_in_one_sentence(policy) -> None:
    with pytest.raises(ValueError, match="no environment for family 'chatter'"):
        list(collect(policy, {}, jobs_of(1), run="r", seed=1))
    with pytest.raises(ValueError, match="batch_size is 0"):
        run(policy, jobs_of(1), batch_size=0)
    with pytest.raises(ValueError, match="step 0: the first turn alone may be longer"):
        run(tiny.policy(context=12), jobs_of(1))
    assert run(policy, []) == []
