"""What an epoch learns from: the draws of the shipped jobs are pinned, number by number."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest

from retro_lightning.curriculum.pacing import Adaptive
from retro_lightning.curriculum.prioritisation import QualityWeighted
from retro_lightning.replay.store import ReplayStore
from retro_lightning.training.memory import ReplayMemory
from retro_lightning.training.plan import draw_plan
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


@pytest.mark.parametrize(
    ("fresh_share", "digest"),
    [(None, "19d3477ebc9a58d9"), (0.5, "9d7f54407aa0cef9")],
)
def test_the_main_jobs_draws_are_what_they_always_were(
    memory: ReplayMemory, fresh_share: float | None, digest: str
) -> None:
    """Recorded before the curricula grew: whoever changes them changes every published number."""
    prioritisation = QualityWeighted(start_fraction=0.3, pacing=Adaptive(low=0.6, high=1.0))
    prioritisation.observe(0.7)
    plan = draw_plan(
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
    )
    drawn = hashlib.sha256()
    for column in (plan.rows, plan.weights, plan.value_weights):
        drawn.update(column.round(9).tobytes())  # the last bits of a power differ by processor
    assert drawn.hexdigest()[:16] == digest
