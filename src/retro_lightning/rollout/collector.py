"""Behaviour half: runs a policy in environments until trajectories come out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from retro_lightning.environments.base import EnvironmentFactory, TextEnv
from retro_lightning.policy.actions import LogitsNotFinite
from retro_lightning.policy.policy import Policy
from retro_lightning.policy.text import TextSampling
from retro_lightning.policy.trie import IntArray, TokenTrie
from retro_lightning.rollout.batched import reset_all, step_all
from retro_lightning.rollout.episode import EpisodeRecorder
from retro_lightning.rollout.seeds import generator
from retro_lightning.rollout.session import Session
from retro_lightning.rollout.turn import Choice
from retro_lightning.trajectory import Task, Trajectory


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt to be made.

    Attributes:
        task: The task.
        attempt: Number of this attempt at it.
        reflections: What the agent is told about earlier attempts, oldest first.
    """

    task: Task
    attempt: int
    reflections: tuple[str, ...] = ()


def collect(
    policy: Policy,
    environments: Mapping[str, EnvironmentFactory],
    jobs: Sequence[Job],
    *,
    run: str,
    seed: int,
    batch_size: int = 64,
    max_steps: int | None = None,
    greedy: bool = False,
    arm: str = "train",
    record_distribution: bool = False,
    text: TextSampling | None = None,
    source: str = "rollout",
    on_progress: Callable[[int], None] | None = None,
) -> Iterator[Trajectory]:
    """Attempt tasks, ``batch_size`` at a time; the next ones begin when all of these are over.

    (Filling places as they fall empty was measured a third slower: one old episode makes attention
    over all the young ones as long as its own.)

    What is done in an episode follows from (seed, task, attempt, policy version, arm) and not from
    the others beside it (but for rounding, which a batch of another shape may change). An
    environment that raises makes a trajectory with a fault and the run goes on. A turn that might
    not fit into the model's context ends its episode with ``context_full``.

    Args:
        policy: Who acts; its weights must not change before the last trajectory is out.
        environments: Makes each family's environments.
        jobs: The attempts to make.
        run: Name of the run, recorded.
        seed: The run's seed.
        batch_size: Episodes at a time. Higher = faster, with more memory.
        max_steps: Steps after which an episode is cut with ``collector_limit``; None = never.
        greedy: Take the most probable child at every decision. Such steps have no ``log_prob``: the
            behaviour was not the policy.
        arm: Keeps the random numbers of, say, training and validation apart.
        record_distribution: Record the probability of every valid action with each step.
        text: How free text is sampled; None = as the policy says.
        source: Recorded as the trajectories' source.
        on_progress: Called with 1 for each finished episode.

    Yields:
        One trajectory per job, in the order of the jobs.

    Raises:
        ValueError: If a job's family has no environment, or its first turn does not fit.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; collect at least 1 episode at a time")
    unknown = sorted({task.family for task in (job.task for job in jobs)} - set(environments))
    if unknown:
        raise ValueError(f"no environment for family {unknown[0]!r}; known: {sorted(environments)}")
    if not jobs:
        return
    version = policy.version
    rows = min(batch_size, len(jobs))
    session = Session(policy, rows, record_distribution=record_distribution, text=text)
    tables = _Tables(session, environments, rows)
    waiting = deque(enumerate(jobs))
    finished: dict[int, Trajectory] = {}
    emitted = 0
    try:
        while waiting or tables.seats:
            if not tables.seats:
                starting = []
                for _ in range(min(len(waiting), len(tables.free))):
                    number, job = waiting.popleft()
                    what = (job.task.task_id, job.attempt, version, arm)
                    starting.append(_Seat(number, job, None if greedy else generator(seed, *what)))
                tables.sit(starting, max_steps)
            for seat in tables.turn():
                trajectory = seat.recorder.trajectory(
                    source=source,
                    behaviour_id=f"policy-{version}" + ("-greedy" if greedy else ""),
                    run=run,
                    attempt=seat.job.attempt,
                    policy_version=version,
                    tokenizer=policy.transcript.fingerprint,
                    reflections=seat.job.reflections,
                )
                tables.leave(seat, broken=trajectory.truncation == "fault")
                finished[seat.number] = trajectory
                if on_progress is not None:
                    on_progress(1)
            while emitted in finished:
                yield finished.pop(emitted)
                emitted += 1
    finally:
        tables.close()


class _Seat:
    """One episode under way."""

    recorder: EpisodeRecorder
    env: TextEnv
    row: int

    def __init__(self, number: int, job: Job, rng: np.random.Generator | None) -> None:
        self.number, self.job, self.rng = number, job, rng
        self.steps = 0

    @property
    def where(self) -> str:
        """Task and step, for messages."""
        return f"task {self.job.task.task_id}, step {self.steps}"


class _Tables:
    """The rows of a session, the episodes in them, and the environments that are free."""

    def __init__(
        self, session: Session, environments: Mapping[str, EnvironmentFactory], rows: int
    ) -> None:
        self._session, self._transcript = session, session.transcript
        self._environments = environments
        self._pool: dict[str, list[TextEnv]] = {family: [] for family in environments}
        self.free = list(range(rows))[::-1]
        self.seats: dict[int, _Seat] = {}

    def sit(self, seats: Sequence[_Seat], max_steps: int | None) -> None:
        """Begin episodes in free rows."""
        for seat in seats:
            family = seat.job.task.family
            pool = self._pool[family]
            seat.env = pool.pop() if pool else self._environments[family]()
            seat.row = self.free.pop()
            self._session.start(seat.row, seat.job.task)
            self.seats[seat.row] = seat
        openings = reset_all([seat.env for seat in seats], [seat.job.task.seed for seat in seats])
        for seat, opening in zip(seats, openings, strict=True):
            seat.recorder = EpisodeRecorder(
                seat.job.task, seat.env, max_steps=max_steps, opening=opening
            )

    def turn(self) -> list[_Seat]:
        """One action in every episode; returns the episodes that are over."""
        acting, contexts, tries = self._ready()
        if acting:
            rows = [seat.row for seat in acting]
            try:
                choices = self._session.act(rows, contexts, tries, [seat.rng for seat in acting])
            except LogitsNotFinite as error:
                seat = self.seats[error.row]
                where = f"task {seat.job.task.task_id}, step {seat.steps}"
                raise ValueError(f"{where}: {error}") from None
            self._apply(acting, choices)
        return [seat for seat in self.seats.values() if seat.recorder.done]

    def leave(self, seat: _Seat, *, broken: bool) -> None:
        """Free a row, and its environment unless that is broken."""
        del self.seats[seat.row]
        self._session.stop(seat.row)
        self.free.append(seat.row)
        if broken:
            _close(seat.env)
        else:
            self._pool[seat.job.task.family].append(seat.env)

    def _ready(self) -> tuple[list[_Seat], list[IntArray], list[TokenTrie | None]]:
        """Episodes that go on, with the tokens of their turn; those with no room are stopped."""
        going = [seat for seat in self.seats.values() if not seat.recorder.done]
        self._transcript.prepare(seat.recorder.observation for seat in going)
        acting, contexts, tries = [], [], []
        for seat in going:
            valid = seat.recorder.valid_actions
            try:
                trie = None if valid is None else self._transcript.trie(valid)
            except ValueError as error:
                raise ValueError(f"{seat.where}: {error}") from None
            context = self._transcript.context(
                seat.recorder.observation,
                seat.job.task,
                first=seat.steps == 0,
                reflections=seat.job.reflections,
                thought=self._session.thinks,
            )
            if not self._session.fits(seat.row, context, trie):
                if seat.steps == 0:
                    raise ValueError(
                        f"{seat.where}: the first turn alone may be longer than the model's "
                        f"context of {self._transcript.max_length} tokens; use a longer context"
                    )
                seat.recorder.stop("context_full")
                continue
            acting.append(seat)
            contexts.append(context)
            tries.append(trie)
        return acting, contexts, tries

    def _apply(self, seats: Sequence[_Seat], choices: Sequence[Choice]) -> None:
        actions = []
        for seat, choice in zip(seats, choices, strict=True):
            valid = seat.recorder.valid_actions
            actions.append(choice.text if valid is None else valid[choice.number])
        results = step_all([seat.env for seat in seats], actions)
        for seat, choice, action, result in zip(seats, choices, actions, results, strict=True):
            sampled = seat.rng is not None
            seat.steps += 1
            seat.recorder.act(
                action,
                thought=choice.thought,
                log_prob=choice.log_prob if sampled else None,
                log_probs=choice.log_probs if sampled else None,
                generation=choice.generation,
                result=result,
            )

    def close(self) -> None:
        """Close every environment."""
        for seat in self.seats.values():
            _close(seat.env)
        for pool in self._pool.values():
            for env in pool:
                _close(env)


def _close(env: TextEnv) -> None:
    """Close an environment that may be broken already."""
    try:
        env.close()
    except Exception:  # whatever a user's broken environment raises
        return
