"""Behaviour half: the environment in which a reflection is an action.

An episode is a task of an actor. The observation is an attempt that failed; the action, free text,
is a reflection on it; then the actor tries again, told the reflection, and what that does to its
return is the reward. The episode ends when a retry succeeds, or after ``retries`` of them.

Two rewards for the k-th reflection, G being the return of an attempt:

* ``return_change``: G(k+1) - G(k) (Retroformer, arXiv 2308.02151, section 4.3).
* ``lift``: mean G of retries told the reflection - mean G of control retries told a *placebo* in
  its place, a reflection written for another task of the kind. Environment and, retry by retry,
  the actor's sampling noise are the same in both arms, and other than the failed attempt's.

Both subtract what the reflection has no part in, so that the expected policy gradient is the same;
``docs/retroformer.md`` says where they differ. A reflection is credited with its own retry only:
learn with ``gamma: 0``. All that is random follows from the actor's seed, the task and the number
of the attempt: first attempts and controls are made once.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal

import gymnasium

from retro_lightning.environments.base import (
    EnvironmentFactory,
    Opening,
    Result,
    split_of,
    state_hash,
)
from retro_lightning.environments.spaces import UnicodeText
from retro_lightning.retrospection.actor import Actor, Request
from retro_lightning.retrospection.attempts import (
    family_of,
    guarded,
    make_attempts,
    make_several,
    mean_return,
    require_same_start,
    require_sound,
    unguarded,
)
from retro_lightning.retrospection.hints import require_writer
from retro_lightning.retrospection.memory import Memory
from retro_lightning.retrospection.placebo import placebo_for
from retro_lightning.trajectory import Task, Trajectory

FIRST_ATTEMPTS = 8
"""First attempts made in search of one that fails."""

_ROOM = 1_000
"""Attempt numbers kept for each retry: those of retry k begin at k * 1000."""


class RetrospectionEnv(gymnasium.Env[str, str]):
    """Write a reflection on a failed attempt; the actor's retry is the reward.

    The task's instruction is the actor's, and so are its splits: a test task is one that neither
    the actor nor the reflector has learnt from. A first attempt that succeeds leaves nothing to
    reflect on: further ones, with other noise, are made until one fails (at most eight).

    Args:
        environment: The actor's environment.
        actor: Who attempts the tasks.
        reward: ``return_change`` or ``lift``.
        retries: Most retries in an episode.
        samples: Retries that a reflection's return is the mean of. Higher = less noise, more time.
            The first of them is the attempt that is reflected on next.
        controls: Control retries that ``lift`` subtracts the mean of. They are made once for each
            failed attempt.
        memory: What reflector and actor are shown.
        unusable: Reward of a reflection that is empty, too long or repeats itself; the actor tries
            again and is not told it. None = the episode is a fault and never learnt from. Give a
            number where a reflector learns: nothing else would keep it from such texts.
        placebos: Reflections that help with no task, for ``lift``; empty = helpful ones that the
            environment itself writes (``write_reflection``) for other tasks.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(
        self,
        environment: EnvironmentFactory,
        actor: Actor,
        reward: Literal["return_change", "lift"] = "return_change",
        retries: int = 1,
        samples: int = 1,
        controls: int = 4,
        memory: Memory | None = None,
        unusable: float | None = None,
        placebos: Sequence[str] = (),
    ) -> None:
        for name, value in (("retries", retries), ("samples", samples), ("controls", controls)):
            if not 1 <= value < _ROOM:
                raise ValueError(f"RetrospectionEnv: {name} is {value}; give 1 to {_ROOM - 1}")
        self._make, self.actor = environment, actor
        self._reward, self._retries = reward, retries
        self._samples, self._controls = samples, controls
        self.memory = memory if memory is not None else Memory()
        self._unusable, self._placebos = unusable, tuple(placebos)
        self._env = environment()
        self._family = family_of(environment)
        if reward == "lift" and not placebos and not hasattr(self._env, "write_reflection"):
            raise ValueError(
                f"RetrospectionEnv: {type(self._env).__name__} has no write_reflection to make "
                "placebos with: give placebos, or choose reward: return_change"
            )
        self.observation_space = UnicodeText()
        self.action_space = UnicodeText()

    # ------------------------------------------------------------------ the contract
    def peek(self, *, seed: int) -> tuple[str, dict[str, Any]]:
        """The actor's task of a seed, without an attempt at it."""
        return self._env.reset(seed=seed)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Begin with a failed attempt at the task of the seed.

        Raises:
            ActorFault: If no attempt could be made.
        """
        super().reset(seed=seed, options=options)
        chosen = int(self.np_random.integers(2**31)) if seed is None else seed
        opening: Opening = unguarded(self.reset_many([self], [chosen])[0])
        return opening

    def step(self, action: str) -> Result:
        """Let the actor try again, told this reflection.

        Raises:
            ActorFault: If the retry could not be made, or met another environment.
            ValueError: If the reflection is empty, too long or repeats itself.
        """
        turn: Result = unguarded(self.step_many([self], [action])[0])
        return turn

    @staticmethod
    def reset_many(
        environments: Sequence[RetrospectionEnv], seeds: Sequence[int]
    ) -> list[Opening | Exception]:
        """Begin many episodes; all first attempts are made together."""
        for env, seed in zip(environments, seeds, strict=True):
            env._begin(seed)
        for number in range(FIRST_ATTEMPTS):
            open_ = [env for env in environments if env._goes_on_searching()]
            asked = [(env.actor, env.requests(number, 1, [])[0]) for env in open_]
            attempts = make_attempts(asked, keep=True)
            for env, attempt in zip(open_, attempts, strict=True):
                env._failed, env._searched = attempt, number + 1
        return [guarded(env._opening) for env in environments]

    @staticmethod
    def step_many(
        environments: Sequence[RetrospectionEnv], actions: Sequence[str | None]
    ) -> list[Result | Exception]:
        """One reflection in each of many episodes; all their retries are made together.

        Args:
            environments: Different environments.
            actions: A reflection for each; None = the actor tries again and is told nothing new.
        """
        plans = [
            guarded(functools.partial(env._plan, action))
            for env, action in zip(environments, actions, strict=True)
        ]
        fine = [place for place, plan in enumerate(plans) if not isinstance(plan, Exception)]
        actors = [environments[place].actor for place in fine]
        asked = [plans[place][0] for place in fine]
        compared = [plans[place][1] for place in fine]
        retries = make_several(list(zip(actors, asked, strict=True)), keep=False)
        controls = make_several(list(zip(actors, compared, strict=True)), keep=True)
        results: list[Any] = list(plans)
        for place, tried, others in zip(fine, retries, controls, strict=True):
            env = environments[place]
            results[place] = guarded(
                functools.partial(env._conclude, actions[place], tried, others)
            )
        return results

    def close(self) -> None:
        """Close the actor's environment."""
        self._env.close()

    # ------------------------------------------------------------------ an episode
    def _begin(self, seed: int) -> None:
        observation, info = self._env.reset(seed=seed)
        hash_ = state_hash(observation, info)
        self._task = Task(
            task_id=f"{self._family}:{hash_}",
            family=self._family,
            instruction=str(info["instruction"]),
            seed=seed,
            split=split_of(hash_),
        )
        self._state = str(info.get("initial_state", observation))
        self._failed: Trajectory | None = None
        self._searched = self._tried = 0
        self._reflections: list[str] = []

    @property
    def at_once(self) -> bool:
        """Whether the very first attempt at the task succeeded, and another is reflected on."""
        return self._failed is not None and self._searched > 1

    @property
    def task(self) -> Task:
        """The actor's task."""
        return self._task

    @property
    def tried(self) -> int:
        """Retries made so far."""
        return self._tried

    def _goes_on_searching(self) -> bool:
        attempt = self._failed
        return attempt is None or (attempt.success and attempt.truncation != "fault")

    def requests(self, first: int, count: int, reflections: Sequence[str]) -> list[Request]:
        """Requests for attempts at the present task.

        Args:
            first: Number of the first attempt.
            count: How many.
            reflections: What has been written about the task; the actor is told what its memory
                holds of it.
        """
        told = self.memory.told(self._task, reflections)
        return [Request(self._make, self._task, first + n, told) for n in range(count)]

    def _opening(self) -> tuple[str, dict[str, Any]]:
        failed = self._failed
        assert failed is not None
        require_sound(failed)
        return self.memory.describe(failed), {**self._info(failed), "initial_state": self._state}

    def _plan(self, reflection: str | None) -> tuple[list[Request], list[Request]]:
        """The retries and the control retries that the reflection calls for."""
        if reflection is not None and (complaint := self.memory.complaint(reflection)):
            if self._unusable is None:
                raise ValueError(complaint)
            reflection = None
        first = _ROOM * (self._tried + 1)
        before = self._reflections
        given = [] if reflection is None else [reflection]
        retries = self.requests(first, self._samples, [*before, *given])
        if self._reward != "lift" or reflection is None:
            return retries, []
        return retries, self.requests(first, self._controls, [*before, self.placebo()])

    def _conclude(
        self,
        reflection: str | None,
        retries: Sequence[Trajectory],
        controls: Sequence[Trajectory],
    ) -> Result:
        """The reward of a reflection, and the attempt to reflect on next."""
        before = self._failed
        assert before is not None
        for attempt in (*retries, *controls):
            require_sound(attempt)
            require_same_start(before, attempt)
        self._tried += 1
        if reflection is not None and self.memory.complaint(reflection):
            assert self._unusable is not None
            reward = self._unusable
        else:
            compared = mean_return(controls) if controls else before.total_return
            reward = mean_return(retries) - compared
            self._reflections += [] if reflection is None else [reflection]
        self._failed = retries[0]
        over = retries[0].success or self._tried >= self._retries
        return self.memory.describe(retries[0]), reward, over, False, self._info(retries[0])

    def _info(self, attempt: Trajectory) -> dict[str, Any]:
        return {"instruction": self._task.instruction, "success": attempt.success}

    # ------------------------------------------------------------------ scripted reflections
    def placebo(self) -> str:
        """A reflection that was written for another task of the kind; always the same one."""
        return placebo_for(self._task, self._make, self._placebos)

    def write_reflection(self, quality: Any, rng: Any) -> str:
        """A reflection that the actor's environment writes on the present task.

        The episode goes on as it was.
        """
        env: Any = self._env
        require_writer(env, self._family)
        env.reset(seed=self._task.seed)
        return str(env.write_reflection(quality, rng))
