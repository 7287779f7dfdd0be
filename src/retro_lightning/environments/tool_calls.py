"""Behaviour half: an environment of calls, whose calls are written as free text in JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium

from retro_lightning.environments.base import EnvironmentFactory
from retro_lightning.environments.call_format import (
    CallFormat,
    NoCall,
    Schema,
    ToolCall,
    format_of,
)
from retro_lightning.environments.spaces import UnicodeText

Turn = tuple[str, float, bool, bool, dict[str, Any]]


class ToolCalls(gymnasium.Env[str, str]):
    """Has the calls of an environment written by the agent, instead of chosen from a list.

    An action is free text, a call such as ``{"name": "cancel_order", "arguments": {"order":
    "o3"}}``, validated against the tools' type hints. A text that is no call, or a call that is not
    possible now, changes nothing in the environment: the observation says what is wrong, the reward
    is ``-penalty`` and the episode goes on, until it is truncated after ``patience`` such failures.
    The first observation lists the tools.

    The wrapped environment must give ``info["tools"]`` (schemas as ``tool_schema`` makes them, by
    ``reset``) and ``info["calls"]`` (valid action → ``name`` and ``arguments``, in every turn).

    Args:
        environment: The environment, such as the service desk.
        penalty: What a text that is no possible call costs, in units of reward, at least 0. Higher
            = learns to write calls sooner, and to avoid calling at all if it outweighs the task.
        patience: Failures after which the episode is truncated. Higher = longer episodes early on.
        tokenizer: Directory or hub name of the model's tokenizer, whose chat template says how
            calls are written; null = as a bare JSON object.
    """

    TEXT_VERSION = 1
    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own declaration)
    expert_action: Callable[[], str] | None

    def __init__(
        self,
        environment: EnvironmentFactory,
        penalty: float = 0.1,
        patience: int = 5,
        tokenizer: str | None = None,
    ) -> None:
        """Make the environment; see the class for the arguments.

        Raises:
            ValueError: If a number is impossible.
        """
        if not 0.0 <= penalty < math.inf:
            raise ValueError(f"ToolCalls: penalty is {penalty}; give a finite number of at least 0")
        if patience < 1:
            raise ValueError(f"ToolCalls: patience is {patience}; give at least 1")
        self._env = environment()
        self._penalty, self._patience = penalty, patience
        self._format = CallFormat() if tokenizer is None else format_of(tokenizer)
        self.observation_space = UnicodeText()
        self.action_space = UnicodeText()
        advice = getattr(self._env, "expert_action", None)
        self.expert_action = None if advice is None else lambda: self._written(advice())

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Begin an episode; the observation begins with the tools.

        Raises:
            ValueError: If the wrapped environment does not say what its actions call.
        """
        super().reset(seed=seed, options=options)
        observation, info = self._env.reset(seed=seed, options=options)
        for key in ("tools", "calls"):
            if key not in info:
                raise ValueError(
                    f'ToolCalls: {type(self._env).__name__} gives no info["{key}"]: only an '
                    "environment whose actions are calls can be wrapped"
                )
        self._schemas: Sequence[Schema] = info["tools"]
        self._failures = 0
        state = str(info.get("initial_state", observation))
        text = f"{describe_tools(self._schemas)}\n{observation}"
        return text, {**self._read(info), "initial_state": state}

    def step(self, action: str) -> Turn:
        """Make the call that is written; whatever is written, this is an outcome and no error."""
        call = self._format.read(action, self._schemas)
        if isinstance(call, NoCall):
            return self._failed(f"no call: {call.reason}")
        text = next((text for text, other in self._calls.items() if other == call), None)
        if text is None:
            return self._failed(f"{call.name} with these arguments is not possible now")
        observation, reward, terminated, truncated, info = self._env.step(text)
        return observation, float(reward), terminated, truncated, self._read(info)

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _failed(self, observation: str) -> Turn:
        self._failures += 1
        info = {**self._info, "success": False}
        return observation, -self._penalty, False, self._failures >= self._patience, info

    def _read(self, info: Mapping[str, Any]) -> dict[str, Any]:
        """Note the possible calls; what is told on has no list of valid actions."""
        self._calls = {text: ToolCall(**call) for text, call in info["calls"].items()}
        left_out = ("valid_actions", "calls")
        self._info = {key: value for key, value in info.items() if key not in left_out}
        return self._info

    def _written(self, action: str) -> str:
        return self._format.write(self._calls[action])


def describe_tools(schemas: Sequence[Schema]) -> str:
    """Tools in words, one a line, such as ``cancel_order(order: string): Cancel an order``."""
    lines = []
    for function in (schema["function"] for schema in schemas):
        parameters = function["parameters"]
        shown = [
            f"{key}: {value['type']}" + ("" if key in parameters["required"] else ", optional")
            for key, value in parameters["properties"].items()
        ]
        lines.append(f"{function['name']}({'; '.join(shown)}): {function['description']}")
    return "\n".join(["Tools:", *lines])
