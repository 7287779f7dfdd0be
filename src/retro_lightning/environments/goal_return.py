"""Behaviour half: an agent that is asked for a return, and trajectories that say what they got.

The goal is the last line of every observation, so that it is text in the prompt like all else and
needs nothing of the transcript: ``Goal return: 0.70``, less the rewards already received.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import gymnasium

from retro_lightning.environments.base import EnvironmentFactory
from retro_lightning.environments.spaces import UnicodeText
from retro_lightning.trajectory import Step, Trajectory

_LINE = re.compile(r"\nGoal return: -?\d+\.\d\d$")


def with_goal(observation: str, goal: float) -> str:
    """The observation with what is still to be got as its last line, in place of an older one.

    Two decimals: what is asked for later is then worded as what was seen in training.
    """
    rounded = round(goal, 2) + 0.0  # no minus before a zero
    return f"{_LINE.sub('', observation)}\nGoal return: {rounded:.2f}"


def relabelled(trajectory: Trajectory) -> Trajectory:
    """A trajectory that was asked, at every step, for exactly what it received from there on.

    The recorded tokens are dropped, for they do not hold the goal. The behaviour's probabilities
    stay: they are still those with which the actions were taken.
    """
    goal = trajectory.total_return
    steps: list[Step] = []
    for step in trajectory.steps:
        seen = with_goal(step.observation, goal)
        steps.append(replace(step, observation=seen, generation=None))
        goal -= step.reward
    return replace(
        trajectory,
        steps=tuple(steps),
        final_observation=with_goal(trajectory.final_observation, goal),
    )


class GoalReturn(gymnasium.Env[str, str]):
    """Any text environment whose agent is asked for a return.

    Tasks and their splits are those of the environment within.

    Args:
        environment: Makes the environment within.
        goal: Return asked for at the beginning, in the environment's units; what is received is
            taken off it.
        step_cost: Taken off the reward of every step, so that a task that is only solved or not has
            graded returns: what is asked for is then how fast. 0 = rewards as they are.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(
        self, environment: EnvironmentFactory, goal: float = 1.0, step_cost: float = 0.0
    ) -> None:
        for name, value in (("goal", goal), ("step_cost", step_cost)):
            if not value - value == 0.0:
                raise ValueError(f"GoalReturn: {name} is {value}; give a finite number")
        self.goal, self.step_cost = goal, step_cost
        self._env = environment()
        self._left = goal
        self.action_space = self._env.action_space
        self.observation_space = UnicodeText()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Begin an episode of the environment within."""
        observation, info = self._env.reset(seed=seed, options=options)
        self._left = self.goal
        return with_goal(observation, self._left), _named(observation, info)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Act, and take what was received off the goal."""
        observation, reward, terminated, truncated, info = self._env.step(action)
        paid = float(reward) - self.step_cost
        self._left -= paid
        return with_goal(observation, self._left), paid, terminated, truncated, info

    def expert_action(self) -> str:
        """What the expert of the environment within would do.

        Raises:
            ValueError: If it has none.
        """
        expert = getattr(self._env, "expert_action", None)
        if expert is None:
            raise ValueError(
                f"{type(self._env).__name__} has no expert: write its history without experts"
            )
        return str(expert())

    def close(self) -> None:
        """Close the environment within."""
        self._env.close()


def _named(observation: str, info: Mapping[str, Any]) -> dict[str, Any]:
    """With the initial state as the environment within names it, whatever is asked for."""
    return {"initial_state": observation, **info}
