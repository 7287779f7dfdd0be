"""What an epoch learns from: the draws of the shipped jobs are pinned, number by number."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest

from retro_lightning.curriculum.feedback import Feedback
from retro_lightning.curriculum.pacing import Adaptive
from retro_lightning.curriculum.prioritisation import QualityWeighted
from retro_lightning.replay.store import ReplayStore
from retro_lightning.training.memory import ReplayMemory
from retro_lightning.training.plan import Plan, attempt_groups, draw_plan
from retro_lightning.trajectory import Trajectory
from tests.tiny import policy, trajectory


def _attempt(number: int, version: int | None) -> Trajectory:
    """One of three families; every third attempt or so succeeds, with a return of 1."""
    rng = np.random.default_rng([number, 0 if version is None else version + 1])
    made = trajectory(number % 40, int(rng.integers(1, 9)))
    success = bool(rng.random() < 0.35)
    steps = tuple(dataclasses.replace(step, reward=0.0) for step in made.steps)
    last = dataclasses.replace(steps[-1], reward=float(success))
    family = f"family-{number % 3}"
    return dataclasses.replace(
        made,
        task=dataclasses.replace(made.task, family=family, task_id=f"{family}:{number % 40}"),
        steps=(*steps[:-1], last),
        success=success,
        attempt=number // 40,
        policy_version=version,
    )


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> ReplayMemory:
    """A history of 240 attempts and two rounds of 60 rollouts."""
    path = tmp_path_factory.mktemp("stores")
    history = ReplayStore(path / "history", create=True)
    history.append([_attempt(number, None) for number in range(240)])
    own = ReplayStore(path / "own", create=True)
    for version in (40, 80):
        own.append([_attempt(number, version) for number in range(60)])
    for store in (history, own):
        store.refresh()
    return ReplayMemory(history, own, policy().transcript)


def _draw(memory: ReplayMemory, fresh_share: float | None, grouped: bool = False) -> Plan:
    prioritisation = QualityWeighted(start_fraction=0.3, pacing=Adaptive(low=0.6, high=1.0))
    prioritisation.observe(Feedback(validation_success=0.7))
    return draw_plan(
        memory,
        prioritisation,
        epoch=3,
        begun=600,
        progress=0.125,
        batches=20,
        batch_size=16,
        uniform_share=0.1,
        fresh_version=80,
        fresh_share=fresh_share,
        seed=1,
        grouped=grouped,
    )


@pytest.mark.parametrize(
    ("fresh_share", "digest"),
    [(None, "19d3477ebc9a58d9"), (0.5, "9d7f54407aa0cef9")],
)
def test_the_main_jobs_draws_are_what_they_always_were(
    memory: ReplayMemory, fresh_share: float | None, digest: str
) -> None:
    """Recorded before the curricula grew: whoever changes them changes every published number."""
    plan = _draw(memory, fresh_share)
    drawn = hashlib.sha256()
    for column in (plan.rows, plan.weights, plan.value_weights):
        drawn.update(column.round(9).tobytes())  # the last bits of a power differ by processor
    assert drawn.hexdigest()[:16] == digest


def test_groups_come_whole_into_one_gradient_step(memory: ReplayMemory) -> None:
    plan = _draw(memory, 0.5, grouped=True)
    index, group_N = memory.index, attempt_groups(memory.index)
    trajectories = [t for t, _ in memory.load(range(len(index)))]
    sizes = []
    for step in range(len(plan)):
        places = plan.share(step, 0, 1)
        sizes.append(len(places))
        for number in np.unique(plan.groups[places]):
            rows = plan.rows[places[plan.groups[places] == number]]
            members = [trajectories[row] for row in rows]
            key = {(t.task.task_id, t.policy_version, t.behaviour_id, t.run) for t in members}
            assert len(key) == 1
            assert sorted(rows) == np.flatnonzero(group_N == group_N[rows[0]]).tolist()
    # 16 on average; a group of 40 tasks' attempts has two members or six.
    assert np.mean(sizes) == pytest.approx(16, abs=2)
    # Half of what is learnt from is fresh, as reserved.
    assert memory.fresh(80)[plan.rows].mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_no_group_is_torn_between_processes(memory: ReplayMemory, world_size: int) -> None:
    plan = _draw(memory, 0.5, grouped=True)
    for step in range(len(plan)):
        shares = [plan.share(step, rank, world_size) for rank in range(world_size)]
        whole = plan.share(step, 0, 1)
        assert sorted(np.concatenate(shares)) == whole.tolist()
        assert all(len(share) for share in shares)
        for number in np.unique(plan.groups[whole]):
            assert sum(number in plan.groups[share] for share in shares) == 1
    with pytest.raises(ValueError, match=r"groups for 99 processes: raise data\.batch_size"):
        plan.share(0, 0, 99)


def test_what_was_learnt_from_follows_from_the_steps_taken(memory: ReplayMemory) -> None:
    plan = _draw(memory, None)
    assert plan.learnt(0).tolist() == []
    assert plan.learnt(2).tolist() == plan.rows[:32].tolist()
    assert plan.learnt(99).tolist() == plan.rows.tolist()


def test_the_probability_of_each_draw_stands_in_the_plan(memory: ReplayMemory) -> None:
    for grouped in (False, True):
        plan = _draw(memory, 0.5, grouped)
        # The value loss undoes the sampling: (N p)^-1 over the N rows that can be drawn.
        drawable = int(memory.learnable.sum())
        np.testing.assert_allclose(plan.value_weights, 1 / (drawable * plan.probabilities))
