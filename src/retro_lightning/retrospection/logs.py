"""Behaviour half: what logs of attempts and reflections teach a reflector, without any actor.

The triplets of Retroformer (arXiv 2308.02151, section 4.3): a failed attempt, the reflection that
was written on it, and what the next attempt, told it, gained.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from retro_lightning.environments.base import EnvironmentFactory, describe
from retro_lightning.replay.store import ReplayStore
from retro_lightning.retrospection.memory import Memory
from retro_lightning.rollout.history import History
from retro_lightning.rollout.written_once import written_once
from retro_lightning.trajectory import Step, Trajectory

_SHARD = 1_000
RETRY = 1_000
"""What a retry adds to the number of its attempt, where a task is attempted several times before
any of the attempts is reflected on (``RetryRollouts``)."""


class LoggedReflections(History):
    """Reflections of a log, each with the change of return that followed it.

    From every two consecutive attempts at a task by one behaviour (or an attempt and the one that
    is ``RETRY`` numbers on), of which the earlier failed and the later was told a new reflection,
    one record comes: the earlier attempt as the observation, the reflection as the action, the
    later return minus the earlier as the reward. The reward is
    ``return_change``: a log holds no controls, so a lucky second try is credited to the reflection.

    Args:
        store: Replay store of attempts that carry ``reflections`` and ``attempt``, such as an
            imported Reflexion log.
        prefix: Put before the family's name; the reflector's tasks are a family of their own.
        memory: How attempts are told to the reflector.
    """

    def __init__(self, store: str, prefix: str = "retro/", memory: Memory | None = None) -> None:
        self.store, self.prefix = store, prefix
        self.memory = memory if memory is not None else Memory()

    def materialise(
        self, environments: Mapping[str, EnvironmentFactory], cache_dir: Path, seed: int
    ) -> Path:
        """Write the triplets as a store, unless it stands already.

        Raises:
            ValueError: If the log holds none.
        """
        log = ReplayStore(self.store)

        def write(store: ReplayStore, name: str) -> None:
            made = list(triplets(log.read(range(len(log))), self.memory, self.prefix, name))
            if not made:
                raise ValueError(
                    f"the log {self.store} holds no failed attempt that was reflected on and tried "
                    "again: import one whose attempts carry their reflections"
                )
            for start in range(0, len(made), _SHARD):
                store.append(made[start : start + _SHARD])

        definition = {"history": describe(self), "snapshot": list(log.snapshot())}
        return written_once(cache_dir, definition, write)


def triplets(
    attempts: Iterable[Trajectory], memory: Memory, prefix: str, run: str
) -> Iterator[Trajectory]:
    """One-step trajectories of a reflector, from attempts of an actor.

    Args:
        attempts: The attempts, in any order. Faults are left out; a later attempt may be an outcome
            record, an earlier one may not, for there is nothing in it to reflect on.
        memory: How attempts are told.
        prefix: Put before task ids and the family.
        run: Recorded.

    Yields:
        One record per reflection, by task and attempt.
    """
    by_task: dict[tuple[str, str, str], dict[int, Trajectory]] = {}
    for attempt in attempts:
        if attempt.truncation != "fault":
            series = (attempt.task.task_id, attempt.behaviour_id, attempt.run)
            by_task.setdefault(series, {})[attempt.attempt] = attempt
    for series in sorted(by_task):
        numbered = by_task[series]
        for number in sorted(n for n in numbered if n < RETRY):
            before = numbered[number]
            for after in map(numbered.get, (number + 1, number + RETRY)):
                if after is None or before.success or not before.steps:
                    continue
                if after.reflections and after.reflections != before.reflections:
                    yield _triplet(before, after, memory, prefix, run)


def _triplet(
    before: Trajectory, after: Trajectory, memory: Memory, prefix: str, run: str
) -> Trajectory:
    task = before.task
    return Trajectory(
        task=replace(task, task_id=f"{prefix}{task.task_id}", family=f"{prefix}{task.family}"),
        steps=(
            Step(
                observation=memory.describe(before),
                valid_actions=None,
                action=after.reflections[-1],
                reward=after.total_return - before.total_return,
            ),
        ),
        final_observation=memory.describe(after) if after.steps else "",
        final_valid_actions=None,
        terminated=True,
        truncated=False,
        truncation=None,
        success=after.success,
        source="import:reflections",
        behaviour_id=before.behaviour_id,
        run=run,
        attempt=before.attempt,
    )
