"""An actor under training retries what it failed at; policies are published at ends of epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from retro_lightning.environments.proving_ground import LockedDoor
from retro_lightning.policy.policy import Policy
from retro_lightning.replay.store import ReplayStore
from retro_lightning.retrospection.hints import HintedHistory
from retro_lightning.retrospection.reflectors import ScriptedReflector
from retro_lightning.training.callbacks.retries import PublishPolicy, RetryRollouts
from tests.fits import EPOCHS, Fit, phases


class RetryFit(Fit):
    """A fit whose rollouts are first attempts and retries."""

    def __post_init__(self) -> None:
        super().__post_init__()
        callbacks: Any = self.trainer.callbacks  # type: ignore[attr-defined]
        places = [n for n, each in enumerate(callbacks) if type(each).__name__ == "FreshRollouts"]
        callbacks[places[0]] = RetryRollouts(ScriptedReflector(1.0), trajectories=8)


def test_failures_are_retried_with_a_reflection_and_policies_published(tmp_path: Path) -> None:
    published = tmp_path / "published"
    fit = RetryFit(
        tmp_path / "run",
        tmp_path / "cache",
        make_phases=lambda: phases(None),
        callbacks=[PublishPolicy(str(published), every=2)],
        data={
            "environments": {"door": LockedDoor},
            "history": HintedHistory(tasks_per_family=10, attempts=2),
        },
    )
    fit.run()
    store = ReplayStore(tmp_path / "run" / "store")
    made = store.read(range(len(store)))
    first = [t for t in made if t.attempt < 1_000]
    retries = [t for t in made if t.attempt >= 1_000]
    assert len(first) == 8 * EPOCHS
    assert all(t.reflections == () for t in first)
    failed = {(t.task.task_id, t.policy_version) for t in first if not t.success}
    assert {(t.task.task_id, t.policy_version) for t in retries} == failed
    for retry in retries:
        [reflection] = retry.reflections
        assert retry.task.instruction.split()[-1] in reflection.split()
        assert all(step.generation is not None for step in retry.steps)
    # Three epochs of four steps, published after every second one.
    assert Policy.load(published).version == 8
