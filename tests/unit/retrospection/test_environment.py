"""Reflections as actions: what they are credited with, and what happens when an actor fails."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from retro_lightning.environments.base import make_tasks
from retro_lightning.environments.check import check
from retro_lightning.environments.proving_ground import LockedDoor
from retro_lightning.retrospection.actor import ScriptedActor
from retro_lightning.retrospection.attempts import ActorFault
from retro_lightning.retrospection.environment import FIRST_ATTEMPTS, RetrospectionEnv
from retro_lightning.retrospection.memory import Memory
from tests.unit.retrospection.scenes import Counting, follow_hints, rng, scene

_names = (f"actor-{number}" for number in itertools.count())


@pytest.fixture
def actor() -> Counting:
    """An actor whose attempts nobody remembers yet."""
    return Counting(next(_names))


def naive(actor: ScriptedActor, env: RetrospectionEnv, number: int, *told: str) -> float:
    """Return of one attempt, played by hand."""
    door = LockedDoor()
    seen, info = door.reset(seed=env.task.seed)
    over, total = False, 0.0
    while not over:
        action = follow_hints(seen, tuple(info["valid_actions"]), env.task, told, number)
        seen, reward, over, _, info = door.step(action)
        total += reward
    return total


def test_keeps_the_contract_of_environments(actor: Counting) -> None:
    check(scene(actor, reward="lift", retries=3), seeds=range(3))


def test_tasks_are_those_of_the_actor_and_cost_no_attempt(actor: Counting) -> None:
    own = make_tasks("x", LockedDoor, "val", 20)
    assert make_tasks("x", scene(actor), "val", 20) == own
    assert actor.calls == []


def test_begins_with_the_first_attempt_that_fails(actor: Counting) -> None:
    late = 0
    for seed in range(40):
        env = scene(actor)()
        observation, info = env.reset(seed=seed)
        returns = [naive(actor, env, number) for number in range(FIRST_ATTEMPTS)]
        failed = returns.index(0.0)
        assert env.at_once == (failed > 0)
        late += failed > 0
        assert observation.endswith("return 0")
        assert info["instruction"] == env.task.instruction
        assert "valid_actions" not in info
    assert late > 0


def test_return_change_is_the_retry_less_the_failed_attempt(actor: Counting) -> None:
    env = scene(actor, samples=3)()
    for seed in range(20):
        env.reset(seed=seed)
        _, reward, *_ = env.step("think before you act")
        retries = [naive(actor, env, 1_000 + number) for number in range(3)]
        assert reward == pytest.approx(sum(retries) / 3 - 0.0)


def test_lift_compares_with_a_placebo_under_the_same_noise(actor: Counting) -> None:
    env = scene(actor, reward="lift", samples=2, controls=5)()
    different = 0
    for seed in range(20):
        env.reset(seed=seed)
        helpful = env.write_reflection("helpful", rng())
        _, reward, over, _, info = env.step(helpful)
        controls = [naive(actor, env, 1_000 + number, env.placebo()) for number in range(5)]
        assert reward == pytest.approx(1.0 - sum(controls) / 5)
        assert over
        assert info["success"]
        different += sum(controls) > 0
    assert different > 0
    # The first two control retries share their numbers, hence their noise, with the two retries.
    numbers = {request.number for call in actor.calls for request in call}
    assert numbers <= set(range(FIRST_ATTEMPTS)) | set(range(1_000, 1_005))


def test_a_useless_reflection_has_no_lift_on_average_though_returns_change(actor: Counting) -> None:
    lift, change = 0.0, 0.0
    for settings, total in (({"reward": "lift", "controls": 8}, "lift"), ({}, "change")):
        env = scene(actor, samples=8, **settings)()
        for seed in range(60):
            env.reset(seed=seed)
            _, reward, *_ = env.step("try something else")
            lift, change = (lift + reward, change) if total == "lift" else (lift, change + reward)
    # The scripted actor guesses alike under any useless text: paired noise leaves exactly nothing.
    assert lift == pytest.approx(0.0)
    # G(k+1) - G(k) is credited with a plain second guess: one of 6 keys.
    assert change / 60 == pytest.approx(1 / 6, abs=0.08)


def test_both_rewards_have_the_same_expected_policy_gradient(actor: Counting) -> None:
    texts = ("try something else", "do not give up", "helpful", "wrong")
    logits = np.array([0.3, -0.2, 0.9, 0.1])
    probabilities = np.exp(logits) / np.exp(logits).sum()
    differ = False
    for seed in range(5):
        rewards = {}
        for kind in ("return_change", "lift"):
            env = scene(actor, reward=kind, samples=4, controls=4)()
            rewards[kind] = np.array([_reward(env, seed, text) for text in texts])
        # Gradient of the expected reward by the logits of a softmax: p_i (r_i - sum_j p_j r_j).
        change, lift = (
            probabilities * (r - probabilities @ r)
            for r in (rewards["return_change"], rewards["lift"])
        )
        assert change == pytest.approx(lift, abs=1e-12)
        assert np.abs(change).max() > 0
        differ |= not np.allclose(rewards["return_change"], rewards["lift"])
    assert differ  # the rewards themselves are not equal


def _reward(env: RetrospectionEnv, seed: int, text: str) -> float:
    env.reset(seed=seed)
    quality = text if text in ("helpful", "wrong") else None
    return env.step(env.write_reflection(quality, rng()) if quality else text)[1]


def test_controls_and_first_attempts_are_made_once(actor: Counting) -> None:
    make = scene(actor, reward="lift", controls=4)
    for _ in range(2):
        env = make()
        env.reset(seed=3)
        env.step("try something else")
    made = [request for call in actor.calls for request in call]
    control = env.placebo()
    assert sum(request.reflections == (control,) for request in made) == 4
    assert sum(request.number == 0 for request in made) == 1
    # the retry itself is made anew each time
    assert sum(request.reflections == ("try something else",) for request in made) == 2


def test_one_call_for_all_first_attempts_and_one_for_all_retries(actor: Counting) -> None:
    make = scene(actor)
    envs = [make() for _ in range(5)]
    RetrospectionEnv.reset_many(envs, range(5))
    rounds = len(actor.calls)
    assert len(actor.calls[0]) == 5
    RetrospectionEnv.step_many(envs, ["try something else"] * 5)
    assert [len(call) for call in actor.calls[rounds:]] == [5]


def test_batched_is_as_one_by_one(actor: Counting) -> None:
    make = scene(actor, reward="lift", retries=2)
    envs = [make() for _ in range(6)]
    opened = RetrospectionEnv.reset_many(envs, range(6))
    stepped = RetrospectionEnv.step_many(envs, [f"try {n}" for n in range(6)])
    for number in range(6):
        env = make()
        assert env.reset(seed=number) == opened[number]
        assert env.step(f"try {number}") == stepped[number]


def test_an_episode_stops_at_success_or_after_its_retries(actor: Counting) -> None:
    env = scene(actor, retries=3)()
    for seed in range(10):
        env.reset(seed=seed)
        overs = []
        for _ in range(2):
            _, reward, over, *_ = env.step(env.write_reflection("wrong", rng()))
            assert (reward, over) == (0.0, False)  # misled by the latest reflection
            overs.append(over)
        _, reward, over, *_ = env.step(env.write_reflection("helpful", rng()))
        assert (reward, over) == (1.0, True)
    env.reset(seed=0)
    overs = [env.step(env.write_reflection("wrong", rng()))[2] for _ in range(3)]
    assert overs == [False, False, True]


def test_the_actor_is_told_the_latest_reflections_oldest_first(actor: Counting) -> None:
    env = scene(actor, retries=4, memory=Memory(last=2))()
    env.reset(seed=1)
    for number in range(4):
        env.step(f"keep wrong {number}")
    told = [call[0].reflections for call in actor.calls[-4:]]
    assert told == [
        ("keep wrong 0",),
        ("keep wrong 0", "keep wrong 1"),
        ("keep wrong 1", "keep wrong 2"),
        ("keep wrong 2", "keep wrong 3"),
    ]


@pytest.mark.parametrize(
    ("reflection", "complaint"),
    [
        ("  ", "the reflection is empty"),
        ("word " * 5 + "again " * 36, "41 words, more than memory.reflection_words"),
        ("go on go on go on go on", "repeats 'go on' more than 3 times"),
    ],
)
def test_bad_reflections_are_faults_of_their_own_episode(
    actor: Counting, reflection: str, complaint: str
) -> None:
    make = scene(actor)
    envs = [make(), make()]
    RetrospectionEnv.reset_many(envs, [0, 1])
    bad, good = RetrospectionEnv.step_many(envs, [reflection, "try something else"])
    assert isinstance(bad, ValueError)
    assert complaint in str(bad)
    assert not isinstance(good, Exception)
    with pytest.raises(ValueError, match="the reflection"):
        envs[0].step(reflection)


def test_bad_reflections_can_be_rewarded_instead_and_are_not_told(actor: Counting) -> None:
    env = scene(actor, retries=2, unusable=-0.5)()
    env.reset(seed=0)
    _, reward, over, *_ = env.step("go on go on go on go on")
    assert reward == -0.5
    assert actor.calls[-1][0].reflections == ()
    if not over:
        env.step("try something else")
        assert actor.calls[-1][0].reflections == ("try something else",)


def test_an_actor_that_fails_is_a_fault(actor: Counting) -> None:
    def refuse(*_: Any) -> str:
        raise OSError("the server is down")

    env = scene(ScriptedActor(refuse, next(_names)))()
    with pytest.raises(ActorFault, match="the server is down"):
        env.reset(seed=0)


class Drifting(LockedDoor):
    """Another state at every reset."""

    made = 0

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        seen, info = super().reset(seed=seed)
        Drifting.made += 1
        return f"{seen} {Drifting.made}", info


def test_a_retry_that_starts_elsewhere_is_a_fault(actor: Counting) -> None:
    env = RetrospectionEnv(environment=Drifting, actor=actor)
    env.reset(seed=0)
    with pytest.raises(ActorFault, match="began otherwise in the retry"):
        env.step("try something else")


def test_lift_needs_placebos() -> None:
    from tests.support import CorridorEnv

    with pytest.raises(ValueError, match="CorridorEnv has no write_reflection to make placebos"):
        RetrospectionEnv(environment=CorridorEnv, actor=Counting("x"), reward="lift")
    RetrospectionEnv(
        environment=CorridorEnv, actor=Counting("x"), reward="lift", placebos=["hm"]
    ).close()


def test_where_all_tasks_read_alike_placebos_must_be_given(actor: Counting) -> None:
    class OneTask(LockedDoor):
        SUBJECTS = ("cellar", "cellar", "cellar")

    env = RetrospectionEnv(environment=OneTask, actor=actor)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"none has another instruction.*give RetrospectionEnv"):
        env.placebo()


def test_placebos_speak_of_another_task_and_never_change(actor: Counting) -> None:
    env = scene(actor)()
    for seed in range(20):
        env.reset(seed=seed)
        assert env.placebo() == env.placebo()
        assert env.task.instruction.split()[-1] not in env.placebo().split()
