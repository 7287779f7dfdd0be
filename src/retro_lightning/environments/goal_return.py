"""Behaviour half: an agent that is asked for a return, and trajectories that say what they got.

The goal is the last line of every observation, so that it is text in the prompt like all else and
needs nothing of the transcript: ``Goal return: 70 %``, less the rewards already received. It is
rounded to a level, so that each level is one word that is seen often. A number with decimals is
three tokens that a small model has to read together, and slowly learns to.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import gymnasium

from retro_lightning.environments.base import EnvironmentFactory
from retro_lightning.environments.spaces import UnicodeText
from retro_lightning.trajectory import Step, Trajectory

_LINE = re.compile(r"\nGoal return: -?\d+ %$")
RESOLUTION = 0.1
"""Distance of neighbouring levels, unless another is given."""


def with_goal(observation: str, goal: float, resolution: float = RESOLUTION) -> str:
    """The observation with what is still to be got as its last line, in place of an older one.

    Args:
        observation: Text, perhaps with a goal already.
        goal: In the environment's units.
        resolution: Distance of neighbouring levels; the goal is told as the nearest, halves up.
    """
    # Six decimals first: sums of rewards that differ in rounding alone are the same level.
    level = math.floor(round(goal / resolution, 6) + 0.5)
    return f"{_LINE.sub('', observation)}\nGoal return: {round(100 * level * resolution)} %"


def relabelled(trajectory: Trajectory, tell: Callable[[str, float], str] = with_goal) -> Trajectory:
    """A trajectory that was asked, at every step, for exactly what it received from there on.

    The recorded tokens are dropped, for they do not hold the goal. The behaviour's probabilities
    stay: they are still those with which the actions were taken.

    Args:
        trajectory: As it was recorded, with or without a goal.
        tell: Makes the observation that ends with a goal.
    """
    goal = trajectory.total_return
    steps: list[Step] = []
    for step in trajectory.steps:
        steps.append(replace(step, observation=tell(step.observation, goal), generation=None))
        goal -= step.reward
    return replace(
        trajectory,
        steps=tuple(steps),
        final_observation=tell(trajectory.final_observation, goal),
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
        resolution: Distance of the levels that goals are rounded to, in the environment's units, at
            least 0.01. Higher = fewer levels, each seen more often; lower = finer wishes.
        ceiling: Most that can still be received at any step, in the environment's units: a goal
            above it is told as this. Where steps cost, what is left to get grows with every step
            that leads nowhere, soon beyond all that was ever received, and a policy that is told a
            goal it has never seen does anything. None = told whatever it is.
    """

    TEXT_VERSION = 2
    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(
        self,
        environment: EnvironmentFactory,
        goal: float = 1.0,
        step_cost: float = 0.0,
        resolution: float = RESOLUTION,
        ceiling: float | None = None,
    ) -> None:
        numbers = {"goal": goal, "step_cost": step_cost, "resolution": resolution}
        if ceiling is not None:
            numbers["ceiling"] = ceiling
        for name, value in numbers.items():
            if not math.isfinite(value):
                raise ValueError(f"GoalReturn: {name} is {value}; give a finite number")
        if resolution < 0.01:
            raise ValueError(f"GoalReturn: resolution is {resolution}; give at least 0.01")
        self.goal, self.step_cost, self.resolution = goal, step_cost, resolution
        self.ceiling = math.inf if ceiling is None else ceiling
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
        return self._told(observation), _named(observation, info)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Act, and take what was received off the goal."""
        observation, reward, terminated, truncated, info = self._env.step(action)
        paid = float(reward) - self.step_cost
        self._left -= paid
        return self._told(observation), paid, terminated, truncated, info

    def relabelled(self, trajectory: Trajectory) -> Trajectory:
        """One of its trajectories, as if asked for what it got; see ``relabelled``."""
        return relabelled(trajectory, self._tell)

    def _told(self, observation: str) -> str:
        return self._tell(observation, self._left)

    def _tell(self, observation: str, goal: float) -> str:
        return with_goal(observation, min(goal, self.ceiling), self.resolution)

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


def asking(make: EnvironmentFactory, goal: float, family: str) -> EnvironmentFactory:
    """Makes a family's environments with another goal.

    Raises:
        ValueError: When one is made, if it asks for no return.
    """
    return functools.partial(_asking, make, goal, family)


def _asking(make: EnvironmentFactory, goal: float, family: str) -> GoalReturn:
    environment = asks_returns(make(), family)
    environment.goal = goal
    return environment


def asks_returns(environment: gymnasium.Env[str, str], family: str) -> GoalReturn:
    """The environment, which must ask for returns.

    Raises:
        ValueError: If it does not.
    """
    if not isinstance(environment, GoalReturn):
        raise ValueError(
            f"family {family!r} asks for no return: wrap its environment in "
            "retro_lightning.environments.goal_return.GoalReturn"
        )
    return environment


def _named(observation: str, info: Mapping[str, Any]) -> dict[str, Any]:
    """With the initial state as the environment within names it, whatever is asked for."""
    return {"initial_state": observation, **info}
