"""Behaviour half: BabyAI levels by class name: minigrid's, and small-room ones of our own."""

# mypy: allow-untyped-calls

from __future__ import annotations

import functools
from typing import Any

import minigrid.envs.babyai as minigrid_levels
from minigrid.core.roomgrid import RoomGrid
from minigrid.envs.babyai.core.roomgrid_level import RejectSampling, RoomGridLevel
from minigrid.envs.babyai.core.verifier import (
    AfterInstr,
    BeforeInstr,
    GoToInstr,
    ObjDesc,
    OpenInstr,
    PickupInstr,
)


class PickupLocal(RoomGridLevel):
    """Pick up one of several objects in one room, named by colour and kind.

    Args:
        room_size: Side of the room with its walls, in cells.
        num_dists: Objects in the room, the one asked for included.
    """

    def __init__(self, room_size: int = 6, num_dists: int = 4, **kwargs: Any) -> None:
        """Make the level; see the class for the arguments."""
        self.num_dists = num_dists
        super().__init__(num_rows=1, num_cols=1, room_size=room_size, **kwargs)

    def gen_mission(self) -> None:
        """Place agent and objects and choose one of them."""
        self.place_agent()
        objects = self.add_distractors(num_distractors=self.num_dists, all_unique=False)
        self.check_objs_reachable()
        chosen = self._rand_elem(objects)
        self.instrs = PickupInstr(ObjDesc(chosen.type, chosen.color))


class UnlockRoom(RoomGridLevel):
    """Find the key of a locked door among other things, and open the door.

    Unlike minigrid's ``UnlockLocal`` nothing stands in the way: key and door can be reached
    without moving another object.

    Args:
        room_size: Side of the room with its walls, in cells.
        num_dists: Objects in the room beside the key.
    """

    def __init__(self, room_size: int = 6, num_dists: int = 3, **kwargs: Any) -> None:
        """Make the level; see the class for the arguments."""
        self.num_dists = num_dists
        super().__init__(num_rows=1, num_cols=2, room_size=room_size, **kwargs)

    def gen_mission(self) -> None:
        """Place the locked door between two rooms, and agent and objects in one of them."""
        room = self._rand_int(0, 2)
        door, _ = self.add_door(room, 0, door_idx=2 * room, locked=True)
        self.add_object(room, 0, "key", door.color)
        self.add_distractors(room, 0, num_distractors=self.num_dists)
        self.place_agent(room, 0)
        self.check_objs_reachable()
        self.instrs = OpenInstr(ObjDesc(door.type))


class TwoInSequence(RoomGridLevel):
    """Two instructions in one room, joined by "then" or by "after you".

    Each is "go to" or "pick up"; they speak of two different objects.

    Args:
        room_size: Side of the room with its walls, in cells.
        num_dists: Objects in the room, all different, the two asked for included.
    """

    def __init__(self, room_size: int = 6, num_dists: int = 3, **kwargs: Any) -> None:
        """Make the level; see the class for the arguments."""
        self.num_dists = num_dists
        super().__init__(num_rows=1, num_cols=1, room_size=room_size, **kwargs)

    def gen_mission(self) -> None:
        """Place agent and objects and ask for two of them."""
        self.place_agent()
        objects = self.add_distractors(num_distractors=self.num_dists, all_unique=True)
        self.check_objs_reachable()
        first, second = (
            self._rand_elem([GoToInstr, PickupInstr])(ObjDesc(chosen.type, chosen.color))
            for chosen in self._rand_subset(objects, 2)
        )
        self.instrs = self._rand_elem([BeforeInstr, AfterInstr])(first, second)


class _TextLevel:
    """Mixed into a level: no prints, and no image that nobody reads."""

    def _gen_grid(self: Any, width: int, height: int) -> None:
        while True:
            try:
                RoomGrid._gen_grid(self, width, height)
                self.gen_mission()
                self.validate_instrs(self.instrs)
            except (RecursionError, RejectSampling):
                continue
            break
        self.surface = self.mission = self.instrs.surface(self)

    def gen_obs(self) -> dict[str, Any]:
        return {}


@functools.cache
def level_class(name: str) -> type[Any]:
    """The level of that class name, ours or minigrid's, made silent and without images.

    Raises:
        ValueError: If there is no such level.
    """
    base = _LEVELS.get(name)
    if base is None:
        raise ValueError(
            f"BabyAI: there is no level {name!r}; take one of {', '.join(sorted(_LEVELS))}"
        )
    return type(f"Text{name}", (_TextLevel, base), {})


_LEVELS: dict[str, type[Any]] = {
    name: value
    for name, value in [
        *vars(minigrid_levels).items(),
        ("PickupLocal", PickupLocal),
        ("UnlockRoom", UnlockRoom),
        ("TwoInSequence", TwoInSequence),
    ]
    if isinstance(value, type) and issubclass(value, RoomGridLevel)
}
