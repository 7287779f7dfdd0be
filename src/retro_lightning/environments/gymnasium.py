"""Behaviour half: any Gymnasium environment with text observations, fitted to our contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium

from retro_lightning.environments.spaces import UnicodeText


class GymnasiumText(gymnasium.Env[str, str]):
    """A Gymnasium environment whose ``info`` lacks our keys or whose actions are numbers.

    Observations must be texts. What the environment's own ``info`` says (``instruction``,
    ``valid_actions``, ``initial_state``, ``success``) comes before the arguments. Without
    ``actions`` and without ``info["valid_actions"]`` the action is free text.

    An environment that keeps the contract already needs no adapter: name it by ``class_path``.

    Args:
        env: A Gymnasium id, such as ``MyText-v0`` or ``my_package:MyText-v0``, or an environment.
        instruction: What to do, where the environment doesn't say.
        actions: Names of the actions, all valid at all times. Where the action space is
            ``Discrete`` they are required, and the first name stands for its first number.
        env_args: Arguments for ``gymnasium.make``; only with an id.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(
        self,
        env: str | gymnasium.Env[Any, Any],
        instruction: str | None = None,
        actions: Sequence[str] | None = None,
        env_args: dict[str, Any] | None = None,
    ) -> None:
        """Make the environment; see the class for the arguments.

        Raises:
            ValueError: If the id is unknown, or the names don't fit the action space.
        """
        if isinstance(env, str):
            try:
                env = gymnasium.make(env, disable_env_checker=True, **(env_args or {}))
            except gymnasium.error.Error as error:
                raise ValueError(f"GymnasiumText: can't make {env!r}: {error}") from error
        self._env: gymnasium.Env[Any, Any] = env
        self._name = repr(str(env))
        self._instruction = instruction
        self._actions = None if actions is None else tuple(actions)
        self._numbers = self._number_actions()
        self.observation_space = UnicodeText()
        self.action_space = UnicodeText()
        self._valid: tuple[str, ...] | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Begin an episode.

        Raises:
            ValueError: If the observation is no text, or nobody says what to do.
        """
        super().reset(seed=seed)
        observation, info = self._env.reset(seed=seed, options=options)
        said = info.get("instruction", self._instruction)
        if not said:
            raise ValueError(
                f"{self._name} does not say what to do: give GymnasiumText an instruction"
            )
        self._said = str(said)
        return self._text(observation), self._info(info)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take an action.

        Raises:
            ValueError: If the action is not valid now, or the observation is no text.
        """
        if self._valid is not None and action not in self._valid:
            raise ValueError(
                f"{self._name}: {action!r} is not a valid action now; valid are: "
                f"{', '.join(self._valid)}"
            )
        native = action if self._numbers is None else self._numbers[action]
        observation, reward, terminated, truncated, info = self._env.step(native)
        text = self._text(observation)
        return text, float(reward), bool(terminated), bool(truncated), self._info(info)

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _number_actions(self) -> dict[str, int] | None:
        space = self._env.action_space
        if not isinstance(space, gymnasium.spaces.Discrete):
            return None
        if self._actions is None or len(self._actions) != space.n:
            given = "none" if self._actions is None else len(self._actions)
            raise ValueError(
                f"{self._name} has {space.n} numbered actions and {given} were named: give "
                "GymnasiumText one name per action in the order of their numbers"
            )
        return {name: int(space.start) + place for place, name in enumerate(self._actions)}

    def _info(self, info: Mapping[str, Any]) -> dict[str, Any]:
        valid = info.get("valid_actions", self._actions)
        self._valid = None if valid is None else tuple(valid)
        ours = {} if self._valid is None else {"valid_actions": list(self._valid)}
        return {**info, "instruction": self._said, **ours}

    def _text(self, observation: Any) -> str:
        if not isinstance(observation, str):
            raise ValueError(
                f"{self._name} gave an observation of type {type(observation).__name__}, not a "
                "text: wrap it in a gymnasium.ObservationWrapper that tells it in words"
            )
        return observation
