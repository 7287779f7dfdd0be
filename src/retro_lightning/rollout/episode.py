"""Behaviour half: one attempt at a task, recorded while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from retro_lightning.environments.base import Opening, Result, TextEnv
from retro_lightning.environments.contract import Broken, Turn, read_turn
from retro_lightning.trajectory import Generation, Step, Task, Trajectory, Truncation


class EpisodeRecorder:
    """Resets an environment to a task and records what happens in it.

    Whatever the environment raises ends the episode as a *fault*: it is recorded, never learnt
    from, and the run goes on.

    Args:
        task: The task to attempt.
        env: An environment of the task's family.
        max_steps: Steps after which the collector cuts the episode; None = the task's own limit.
        opening: What ``reset`` returned, if that was called already, or what it raised.

    Raises:
        ValueError: If the environment's instruction is not the task's, or ``max_steps`` is below 1.
    """

    def __init__(
        self,
        task: Task,
        env: TextEnv,
        *,
        max_steps: int | None = None,
        opening: Opening | Exception | None = None,
    ) -> None:
        if max_steps is not None and max_steps < 1:
            raise ValueError(f"max_steps is {max_steps}; give at least 1, or null for no limit")
        self._task, self._env, self._max_steps = task, env, max_steps
        self._steps: list[Step] = []
        self._turn = Turn(
            observation="",
            valid=None,
            instruction=task.instruction,
            reward=0.0,
            terminated=False,
            truncated=False,
            success=None,
        )
        self.truncation: Truncation | None = None
        self.fault: str | None = None
        self._take(lambda: _opened(env.reset(seed=task.seed) if opening is None else opening))
        if self.fault is None and self._turn.instruction != task.instruction:
            raise ValueError(
                f"task {task.task_id}: the environment's instruction is "
                f"{self._turn.instruction!r}, the task's {task.instruction!r}; the environment has "
                "changed since the task was made: delete the cached task lists"
            )

    @property
    def observation(self) -> str:
        """What is seen now."""
        return self._turn.observation

    @property
    def valid_actions(self) -> tuple[str, ...] | None:
        """What can be done now; None where the action is free text."""
        return self._turn.valid

    @property
    def done(self) -> bool:
        """Whether the episode is over."""
        return self._turn.terminated or self.truncation is not None

    def act(
        self,
        action: str,
        *,
        thought: str | None = None,
        log_prob: float | None = None,
        log_probs: tuple[float, ...] | None = None,
        generation: Generation | None = None,
        result: Result | Exception | None = None,
    ) -> None:
        """Take an action and record the step.

        Args:
            action: The action, one of ``valid_actions`` where there are any.
            thought: Reasoning written before it.
            log_prob: Its log-probability under the behaviour; None = unknown.
            log_probs: Log-probability of every valid action.
            generation: Exact tokens of a policy of ours.
            result: What ``step`` returned, if that was called already, or what it raised.

        Raises:
            RuntimeError: If the episode is over.
        """
        self._require_going("act")
        before = self._turn
        self._take(lambda: _stepped(self._env.step(action) if result is None else result))
        self._steps.append(
            Step(
                observation=before.observation,
                valid_actions=before.valid,
                action=action,
                reward=0.0 if self.fault is not None else self._turn.reward,
                thought=thought,
                log_prob=log_prob,
                log_probs=log_probs,
                generation=generation,
            )
        )
        limit = self._max_steps is not None and len(self._steps) >= self._max_steps
        if limit and not self.done:
            self.truncation = "collector_limit"

    def stop(self, reason: Truncation) -> None:
        """Cut the episode.

        Raises:
            RuntimeError: If it is over.
        """
        self._require_going("stop")
        self.truncation = reason

    def fail(self, reason: str) -> None:
        """End the episode as a fault, for what happened outside ``reset`` and ``step``.

        Args:
            reason: What happened, without the place.
        """
        where = f"task {self._task.task_id}, step {len(self._steps)}"
        self.fault = " ".join(f"{where}: {reason}".split())
        self.truncation = "fault"

    def trajectory(
        self,
        *,
        source: str,
        behaviour_id: str,
        run: str,
        attempt: int,
        policy_version: int | None = None,
        tokenizer: str | None = None,
        reflections: tuple[str, ...] = (),
    ) -> Trajectory:
        """The record of the attempt; see ``Trajectory`` for the arguments.

        Raises:
            RuntimeError: If the episode still goes on.
        """
        if not self.done:
            raise RuntimeError(f"task {self._task.task_id}: the episode goes on; stop it first")
        success = self._turn.success
        if success is None:
            success = self._turn.terminated and sum(step.reward for step in self._steps) > 0
        return Trajectory(
            task=self._task,
            steps=tuple(self._steps),
            final_observation=self._turn.observation,
            final_valid_actions=self._turn.valid,
            terminated=self._turn.terminated and self.fault is None,
            truncated=self.truncation is not None,
            truncation=self.truncation,
            success=bool(success) and self.fault is None,
            source=source,
            behaviour_id=behaviour_id,
            run=run,
            attempt=attempt,
            policy_version=policy_version,
            tokenizer=tokenizer,
            fault=self.fault,
            reflections=reflections,
        )

    def _take(self, turn: Callable[[], Turn]) -> None:
        """Let the environment act; whatever it raises is a fault."""
        try:
            self._turn = turn()
        except Broken as error:
            self.fail(f"the environment broke its contract: {error}")
        except Exception as error:  # a user's environment may raise anything
            self.fail(f"the environment raised {type(error).__name__}: {error}")
        else:
            if self._turn.truncated and not self._turn.terminated:
                self.truncation = "task_limit"
            if not self.done and self._turn.valid == ():
                self.fail("the environment lists no valid action though the episode goes on")

    def _require_going(self, what: str) -> None:
        if self.done:
            raise RuntimeError(f"task {self._task.task_id}: cannot {what}, the episode is over")


def _opened(opening: Any) -> Turn:
    if isinstance(opening, Exception):
        raise opening
    observation, info = opening
    return read_turn(observation, 0.0, False, False, dict[str, Any](info))


def _stepped(result: Any) -> Turn:
    if isinstance(result, Exception):
        raise result
    return read_turn(*result)
