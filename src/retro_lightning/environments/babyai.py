"""Behaviour half: BabyAI as text. The level and its rules are minigrid's, the words are ours."""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # minigrid imports pygame, which greets

import gymnasium
from minigrid.core.actions import Actions

from retro_lightning.environments.babyai_expert import BotExpert
from retro_lightning.environments.babyai_levels import level_class
from retro_lightning.environments.babyai_text import hyphenated, look, render
from retro_lightning.environments.spaces import UnicodeText

_ACTIONS = {
    "turn-left": Actions.left,
    "turn-right": Actions.right,
    "go-forward": Actions.forward,
    "pick-up": Actions.pickup,
    "drop": Actions.drop,
    "toggle": Actions.toggle,
}
_NAMES = {action: name for name, action in _ACTIONS.items()}


class BabyAI(gymnasium.Env[str, str]):
    """A BabyAI level whose 7x7 view is told in words; the mission is the instruction.

    A thing is one word, in views and in missions alike: ``go to the red-ball``.

    The reward is 1 for the step that solves the mission and 0 otherwise, so that return = success.
    MiniGrid's own reward, 1 - 0.9·t/T, is not used: it makes the value of a state depend on a clock
    that the agent does not see. Running into the time limit truncates.

    Valid are the actions that change something. ``toggle`` opens and closes doors and opens boxes
    (which destroys them); a locked door needs the key of its colour in hand.

    Args:
        level: Class name of the level: one of ``minigrid.envs.babyai``, or ``PickupLocal``,
            ``UnlockRoom`` or ``TwoInSequence`` of ours.
        level_args: The level's own arguments, such as ``{room_size: 6, num_dists: 4}``.
        max_steps: Time limit in steps; None takes the level's own, which is generous. Lower =
            less room for detours, and shorter failures.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(
        self,
        level: str = "GoToLocal",
        level_args: dict[str, Any] | None = None,
        max_steps: int | None = None,
    ) -> None:
        """Make the level; see the class for the arguments.

        Raises:
            ValueError: If there is no such level, or it does not take the arguments.
        """
        if max_steps is not None and max_steps < 1:
            raise ValueError(f"BabyAI: max_steps is {max_steps}, it must be at least 1")
        arguments = {
            **(level_args or {}),
            **({} if max_steps is None else {"max_steps": max_steps}),
        }
        try:
            self._level = level_class(level)(**arguments)
        except (TypeError, AssertionError) as error:
            raise ValueError(
                f"BabyAI: level {level!r} does not take the arguments {arguments}: {error}"
            ) from error
        self.observation_space = UnicodeText()
        self.action_space = UnicodeText()
        self._seed = 0
        self._taken: list[Actions] = []
        self._expert: BotExpert | None = None
        self._advice: Actions | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Begin an episode; the same seed gives the same room, mission and pose."""
        super().reset(seed=seed, options=options)
        self._seed = int(self.np_random.integers(2**31)) if seed is None else seed
        self._level.reset(seed=self._seed)
        self._taken = []
        self._expert = None
        self._advice = None
        return self._observation(), {**self._info(), "initial_state": self._fingerprint()}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Do one of the valid actions.

        Raises:
            ValueError: If the action is not valid now.
        """
        valid = self._valid()
        if _ACTIONS.get(action) not in valid:
            names = ", ".join(_NAMES[each] for each in valid)
            raise ValueError(f"BabyAI: {action!r} is not a valid action now; valid are: {names}")
        if self._expert is not None:
            self._advise()  # a bot must look at every step, or it loses its way
        self._taken.append(_ACTIONS[action])
        self._advice = None
        _, reward, terminated, truncated, _ = self._level.step(_ACTIONS[action])
        success = bool(terminated and reward > 0)
        info = {**self._info(), "success": success}
        truncated = bool(truncated and not terminated)
        return self._observation(), float(success), bool(terminated), truncated, info

    def expert_action(self) -> str:
        """What MiniGrid's BabyAI bot advises, always a valid action.

        The advice follows from the seed and the actions so far alone: a bot that is first asked
        late in an episode is shown the episode from its beginning.
        """
        if self._expert is None:
            taken, self._taken = self._taken, []
            self._level.reset(seed=self._seed)
            self._expert = BotExpert(self._level)
            for action in taken:
                self._advise()
                self._taken.append(action)
                self._advice = None
                self._level.step(action)
        return _NAMES[self._advise()]

    def _advise(self) -> Actions:
        assert self._expert is not None
        if self._advice is None:
            last = self._taken[-1] if self._taken else None
            self._advice = self._expert.advise(last, self._valid())
        return self._advice

    def _valid(self) -> list[Actions]:
        """The actions that would have an effect."""
        level = self._level
        front = level.grid.get(*level.front_pos)
        valid = [Actions.left, Actions.right]
        if front is None or front.can_overlap():
            valid.append(Actions.forward)
        if front is None and level.carrying is not None:
            valid.append(Actions.drop)
        if front is not None and front.can_pickup() and level.carrying is None:
            valid.append(Actions.pickup)
        if front is not None and (
            front.type == "box" or (front.type == "door" and _can_toggle(front, level.carrying))
        ):
            valid.append(Actions.toggle)
        return valid

    def _info(self) -> dict[str, Any]:
        return {
            "instruction": hyphenated(self._level.mission),
            "valid_actions": [_NAMES[action] for action in self._valid()],
        }

    def _observation(self) -> str:
        level = self._level
        return render(look(level.grid, level.agent_pos, int(level.agent_dir), level.carrying))

    def _fingerprint(self) -> str:
        """The whole grid and the agent's pose, exactly."""
        level = self._level
        cells = ".".join("" if cell is None else _code(cell) for cell in level.grid.grid)
        x, y = level.agent_pos
        return f"{level.width}x{level.height} {x},{y},{int(level.agent_dir)} {cells}"


def _can_toggle(door: Any, carrying: Any) -> bool:
    if not door.is_locked:
        return True
    return carrying is not None and carrying.type == "key" and carrying.color == door.color


def _code(cell: Any) -> str:
    if cell.type == "wall":
        return "w"
    inside = "" if cell.contains is None else f"({_code(cell.contains)})"
    return "-".join(str(number) for number in cell.encode()) + inside
