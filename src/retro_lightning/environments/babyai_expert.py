"""Behaviour half: MiniGrid's BabyAI bot as an adviser of an agent that may do anything else."""

# mypy: allow-untyped-calls

from __future__ import annotations

from typing import Any

from minigrid.core.actions import Actions
from minigrid.envs.babyai.core.verifier import (
    AfterInstr,
    AndInstr,
    BeforeInstr,
    GoToInstr,
    PickupInstr,
    PutNextInstr,
)
from minigrid.utils.baby_ai_bot import BabyAIBot, DropSubgoal, GoNextToSubgoal

from retro_lightning.environments.babyai_text import VIEW, egocentric, visible, world_cell

_MAX_PUSHES = 60


class _Plan(list[Any]):
    """A stack of subgoals that refuses to grow for ever: the bot can push and pop in circles."""

    pushes = 0

    def append(self, item: Any) -> None:
        self.pushes += 1
        if self.pushes > _MAX_PUSHES:
            raise RuntimeError("the bot plans in circles")
        super().append(item)


class _Bot(BabyAIBot):
    """The bot, able to begin in the middle of an episode.

    Args:
        level: The level it plays, in its present state.
        seen: Cells [x, y] the agent has seen before; None at the beginning of an episode.
    """

    def __init__(self, level: Any, seen: Any | None = None) -> None:
        super().__init__(level)
        if seen is not None:
            self.vis_mask |= seen
        self.stack: _Plan = _Plan(self.stack)
        if level.carrying is not None:
            self._process_obs()
            self._mind_carried(_remaining(level.instrs)[0], level.carrying)

    def replan(self, action_taken: Any = None) -> Any:
        self.stack.pushes = 0
        return super().replan(action_taken)

    def _process_instr(self, instr: Any) -> None:
        for part in reversed(_remaining(instr)):
            super()._process_instr(part)

    def _process_obs(self) -> None:
        """Mark what is visible now; equal to the original, without building images."""
        level = self.mission
        position, direction = level.agent_pos, int(level.agent_dir)
        seen = visible(egocentric(level.grid, position, direction))
        width, height = self.vis_mask.shape
        for ahead, row in enumerate(seen):
            for column, lit in enumerate(row):
                if lit:
                    x, y = world_cell(position, direction, ahead, column - VIEW // 2)
                    if 0 <= x < width and 0 <= y < height:
                        self.vis_mask[x, y] = True

    def _check_erroneous_box_opening(self, action: Any) -> None:
        """An opened box need not have mattered; if it did, the attempt fails by its time limit."""

    def _mind_carried(self, first: Any, carried: Any) -> None:
        """Change a plan that assumes empty hands."""
        if isinstance(first, PutNextInstr) and _is_one_of(carried, first.desc_move.obj_set):
            del self.stack[-2:]  # going to it and picking it up are done
        elif isinstance(first, PickupInstr | PutNextInstr) or (
            isinstance(first, GoToInstr) and _is_one_of(carried, first.desc.obj_set)
        ):
            self.stack.append(DropSubgoal(self))
            self.stack.append(GoNextToSubgoal(self, self._find_drop_pos()))


class BotExpert:
    """Advises one agent through one episode. Call it at every step, with what was really done.

    Where the bot fails (it raises, plans in circles, thinks it is done, or proposes what would have
    no effect), it is started afresh from the present state with the cells seen so far. Where that
    fails too, the advice is to go forward if possible, else to turn left.

    Args:
        level: The level that is played, just reset.
    """

    def __init__(self, level: Any) -> None:
        """Plan the episode; see the class for the arguments."""
        self._level = level
        self._bot = _Bot(level)

    def advise(self, taken: Actions | None, valid: list[Actions]) -> Actions:
        """What to do now.

        Args:
            taken: The agent's last action; None at the beginning.
            valid: Actions that would have an effect.
        """
        # "done" stands for "nothing happened yet"; None would mean "my advice was followed".
        advice = self._ask(Actions.done if taken is None else taken)
        if advice is not None and advice in valid:
            return advice
        try:
            self._bot = _Bot(self._level, self._bot.vis_mask)
        except Exception:  # the bot fails by many kinds of assertion and index errors
            advice = None
        else:
            advice = self._ask(Actions.done)
        if advice is not None and advice in valid:
            return advice
        return Actions.forward if Actions.forward in valid else Actions.left

    def _ask(self, taken: Actions) -> Actions | None:
        try:
            return Actions(self._bot.replan(taken))
        except Exception:  # the bot fails by many kinds of assertion and index errors
            return None


def _is_one_of(thing: Any, things: list[Any]) -> bool:
    return any(thing is other for other in things)


def _remaining(instr: Any) -> list[Any]:
    """The simple instructions that are not yet done, in the order in which to do them."""
    parts: list[tuple[Any, Any]]  # with "success" where a part is done
    if isinstance(instr, BeforeInstr | AndInstr):
        parts = [(instr.instr_a, instr.a_done), (instr.instr_b, instr.b_done)]
    elif isinstance(instr, AfterInstr):
        parts = [(instr.instr_b, instr.b_done), (instr.instr_a, instr.a_done)]
    else:
        return [instr]
    return [simple for part, done in parts if done != "success" for simple in _remaining(part)]
