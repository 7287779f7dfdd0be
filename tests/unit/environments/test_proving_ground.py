"""The proving ground: fair kinds, whose failures name just what the next attempt needs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from retro_lightning.environments.base import make_tasks
from retro_lightning.environments.check import check
from retro_lightning.environments.proving_ground import (
    QUALITIES,
    HiddenObject,
    LockedDoor,
    ProvingGround,
    RecordsRoom,
    RefusedCall,
)

KINDS: tuple[type[ProvingGround], ...] = (HiddenObject, LockedDoor, RefusedCall, RecordsRoom)
every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
def test_contract(kind: type[ProvingGround]) -> None:
    report = check(kind, seeds=range(3))
    assert report.has_expert


@every_kind
def test_expert_solves_and_blind_guessing_mostly_fails(kind: type[ProvingGround]) -> None:
    rng = np.random.default_rng(0)
    env, blind = kind(), 0
    for seed in range(300):
        env.reset(seed=seed)
        over = False
        while not over:
            _, reward, over, _, _ = env.step(env.expert_action())
        assert reward == 1.0
        _, info = env.reset(seed=seed)
        over = False
        while not over:
            valid = info["valid_actions"]
            _, reward, over, _, info = env.step(valid[int(rng.integers(len(valid)))])
        blind += reward > 0
    # Two looks of 10 boxes: 1/5. One label of 6 and one subject of 3: 1/18. 3 sigma of 300: 0.07.
    expected = 1 / 5 if kind is HiddenObject else 1 / 18
    assert abs(blind / 300 - expected) < 0.07


@every_kind
def test_a_failed_attempt_ends_by_naming_what_a_helpful_reflection_must_name(
    kind: type[ProvingGround],
) -> None:
    rng = np.random.default_rng(0)
    env, failures = kind(), 0
    for seed in range(50):
        _, info = env.reset(seed=seed)
        over = False
        while not over:
            observation, reward, over, _, info = env.step(info["valid_actions"][0])
        if reward:
            continue
        failures += 1
        helpful, wrong = (env.write_reflection(q, rng).split() for q in ("helpful", "wrong"))
        secret = observation.split()[-2]  # "… see sales plum region"
        assert secret in helpful
        assert secret not in wrong
        assert info["instruction"].split()[-1] in helpful
    assert failures > 20


@every_kind
def test_reflections_of_other_qualities_do_not_help(kind: type[ProvingGround]) -> None:
    rng = np.random.default_rng(1)
    env = kind()
    for seed in range(50):
        _, info = env.reset(seed=seed)
        subject = info["instruction"].split()[-1]
        assert subject in env.write_reflection("wrong", rng).split()
        foreign = env.write_reflection("off_task", rng).split()
        assert subject not in foreign
        assert set(foreign) & set(env._labels)  # one that could be tried
        assert subject not in env.write_reflection("vague", rng).split()


def test_writing_changes_no_episode() -> None:
    env = LockedDoor()
    rng = np.random.default_rng(0)
    opening, _ = env.reset(seed=3)
    for quality in QUALITIES:
        env.write_reflection(quality, rng)
    again = LockedDoor()
    assert again.reset(seed=3)[0] == opening
    for action in (env.expert_action(), "unlock"):
        if action in env._valid():
            assert env.step(action) == again.step(action)


def test_what_each_kind_says() -> None:
    assert "time is up. missed: " in _failure(HiddenObject())
    assert "breaks. the lock says: " in _failure(LockedDoor())
    assert "error: no " in _failure(RefusedCall())
    assert "box. see " in _failure(RecordsRoom())


def _failure(env: ProvingGround) -> str:
    """What is seen last in the first attempt that fails."""
    for seed in itertools.count():
        env.reset(seed=seed)
        seen = _play_first(env)
        if env._used[-1] != env._secret:
            return seen[-1]
    raise AssertionError


def _play_first(env: ProvingGround) -> list[str]:
    seen, over = [], False
    while not over:
        observation, _, over, _, _ = env.step(env._valid()[-1])
        seen.append(observation)
    return seen


def test_invalid_and_late_actions_are_refused() -> None:
    env = RefusedCall()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="'fetch' is not a valid action now; valid are: connect"):
        env.step("fetch")
    _play_first(env)
    with pytest.raises(ValueError, match="not a valid action"):
        env.step(env._valid()[0])


def test_splits_share_no_task_and_there_are_enough() -> None:
    ids = {
        split: {task.task_id for task in make_tasks("x", LockedDoor, split, 300)}
        for split in ("train", "val", "test")
    }
    for one, other in itertools.combinations(ids.values(), 2):
        assert not one & other


@pytest.mark.parametrize("labels", [1, 25])
def test_impossible_numbers_of_labels(labels: int) -> None:
    with pytest.raises(ValueError, match=f"labels is {labels}; give 2 to 24"):
        LockedDoor(labels)
