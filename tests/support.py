"""Test doubles that need no environment package: a corridor in text, and random trajectories."""

from __future__ import annotations

import string
from typing import Any

import gymnasium
import numpy as np

from retro_lightning.trajectory import Generation, Step, Task, Trajectory


class CorridorEnv(gymnasium.Env[str, str]):
    """A row of cells: walk to the cell the instruction names and stop there.

    Start and goal follow from the reset seed. ``stop`` ends the episode with reward 1 at the goal
    and 0 elsewhere; ``left`` and ``right`` are valid where there is a cell. The expert walks the
    shortest way and stops, so its episodes last |goal - start| + 1 steps.

    Args:
        length: Number of cells, at least 2.
        max_steps: The task's own time limit; an episode that reaches it is truncated.
        fault_at: Number of the step (from 0) that raises ``RuntimeError``; None = no step does.
        fault_in_reset: Make ``reset`` raise ``RuntimeError``.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(
        self,
        length: int = 6,
        max_steps: int = 12,
        fault_at: int | None = None,
        fault_in_reset: bool = False,
    ) -> None:
        self.length, self.max_steps = length, max_steps
        self.fault_at, self.fault_in_reset = fault_at, fault_in_reset
        self.action_space = gymnasium.spaces.Text(200, charset=string.printable)
        self.observation_space = gymnasium.spaces.Text(200, charset=string.printable)
        self.closed = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        if self.fault_in_reset:
            raise RuntimeError("the corridor is flooded")
        self.cell, self.goal = (int(self.np_random.integers(self.length)) for _ in range(2))
        self.steps = 0
        info = self._info()
        return self._observation(), {**info, "initial_state": f"{self.cell} {self.length}"}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        if self.steps == self.fault_at:
            raise RuntimeError("the light went out")
        if action not in self._valid():
            raise ValueError(f"{action!r} is not a valid action; valid are {self._valid()}")
        self.steps += 1
        stopped = action == "stop"
        success = stopped and self.cell == self.goal
        self.cell += {"left": -1, "right": 1, "stop": 0}[action]
        truncated = not stopped and self.steps >= self.max_steps
        info = {**self._info(), "success": success}
        return self._observation(), float(success), stopped, truncated, info

    def expert_action(self) -> str:
        if self.cell == self.goal:
            return "stop"
        return "left" if self.goal < self.cell else "right"

    def close(self) -> None:
        self.closed = True

    def _valid(self) -> list[str]:
        left, right = self.cell > 0, self.cell < self.length - 1
        return [*["left"] * left, *["right"] * right, "stop"]

    def _info(self) -> dict[str, Any]:
        return {"instruction": f"stop at cell {self.goal}", "valid_actions": self._valid()}

    def _observation(self) -> str:
        return f"you are at cell {self.cell} of {self.length}"


class HopelessCorridor(CorridorEnv):
    """A corridor without an expert."""

    expert_action = None  # type: ignore[assignment]


WORDS = ("red", "green", "ball", "key", "door", "\N{GREEK SMALL LETTER ALPHA}", "\n", '"', "")


def random_trajectory(rng: np.random.Generator, number: int = 0, *, steps: int = -1) -> Trajectory:
    """A trajectory with every optional field sometimes there and sometimes not."""
    valid = rng.choice([True, True, False])
    truncation = rng.choice(["", "task_limit", "collector_limit", "context_full", "fault"]) or None
    count = int(rng.integers(0, 6)) if steps < 0 else steps
    family = f"family-{rng.integers(3)}"
    scripted = bool(rng.integers(2))
    return Trajectory(
        task=Task(
            task_id=f"{family}:{rng.integers(5)}",
            family=family,
            instruction=_text(rng),
            seed=int(rng.integers(2**31)),
            split=("train", "val", "test")[int(rng.integers(3))],  # type: ignore[arg-type]
        ),
        steps=tuple(_step(rng, bool(valid)) for _ in range(count)),
        final_observation=_text(rng),
        final_valid_actions=("left", "") if valid else None,
        terminated=truncation is None,
        truncated=truncation is not None,
        truncation=truncation,  # type: ignore[arg-type]
        success=bool(rng.integers(2)),
        source="scripted:random" if scripted else "rollout",
        behaviour_id=f"behaviour-{rng.integers(3)}",
        run="run",
        attempt=number,
        policy_version=None if scripted else int(rng.integers(2**40)),
        tokenizer=None if scripted else "0123456789abcdef",
        fault="it broke" if truncation == "fault" else None,
        reflections=tuple(_text(rng) for _ in range(int(rng.integers(0, 3)))),
        outcome_return=float(rng.normal()) if count == 0 and rng.integers(2) else None,
    )


def _text(rng: np.random.Generator) -> str:
    return " ".join(rng.choice(WORDS, int(rng.integers(0, 8))))


def _step(rng: np.random.Generator, listed: bool) -> Step:
    valid = ("left", "right", "stop")[: int(rng.integers(1, 4))] if listed else None
    known = bool(rng.integers(2))
    probabilities = rng.dirichlet(np.ones(len(valid))) if valid else None
    with np.errstate(divide="ignore"):
        logs = None if probabilities is None else np.log(np.round(probabilities, 2))
    return Step(
        observation=_text(rng),
        valid_actions=valid,
        action="left" if listed else _text(rng),
        reward=float(rng.normal()),
        thought=_text(rng) if rng.integers(2) else None,
        log_prob=float(-rng.random()) if known else None,
        log_probs=tuple(logs.tolist()) if known and logs is not None else None,
        generation=Generation(
            context_ids=tuple(rng.integers(0, 500, int(rng.integers(0, 5))).tolist()),
            action_ids=tuple(rng.integers(0, 500, int(rng.integers(0, 3))).tolist()),
            value=float(rng.normal()) if rng.integers(2) else None,
            thought_length=int(rng.integers(0, 2)),
            thought_log_prob=float(-rng.random()) if rng.integers(2) else None,
            temperature=float(rng.choice([0.5, 1.0])),
            kept_ids=((1, 2), (3,), ()) if rng.integers(2) else None,
        )
        if rng.integers(2)
        else None,
    )
