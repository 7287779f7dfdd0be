"""The words for a view, against oracles that scan the whole grid or ask MiniGrid."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from minigrid.core.actions import Actions
from minigrid.core.world_object import Ball, Wall

from retro_lightning.environments.babyai_levels import level_class
from retro_lightning.environments.babyai_text import (
    VIEW,
    Thing,
    View,
    egocentric,
    hyphenated,
    look,
    render,
    visible,
    world_cell,
)

LEVELS = {
    "GoToLocal": {"room_size": 6, "num_dists": 4},
    "OpenDoor": {"room_size": 5},
    "UnlockLocal": {"room_size": 5, "num_rows": 2, "num_cols": 2, "distractors": True},
    "PutNextLocal": {"room_size": 5, "num_objs": 3},
}


def walked(name, seed, actions):
    level = level_class(name)(**LEVELS[name], max_steps=1000)
    level.reset(seed=seed)
    for action in actions:
        level.step(Actions(action))
    return level


somewhere = st.builds(
    walked,
    st.sampled_from(sorted(LEVELS)),
    st.integers(0, 10_000),
    st.lists(st.integers(0, 5), max_size=30),
)


@given(somewhere)
@settings(max_examples=60, deadline=None)
def test_view_is_minigrids_own(level):
    rows = egocentric(level.grid, level.agent_pos, level.agent_dir)
    seen = visible(rows)
    grid, mask = level.gen_obs_grid()
    for ahead in range(VIEW):
        for column in range(VIEW):
            i, j = column, VIEW - 1 - ahead  # MiniGrid: the agent is at the bottom, in the middle
            assert seen[ahead][column] == mask[i, j]
            if mask[i, j] and (ahead, column) != (0, VIEW // 2):
                theirs = grid.get(i, j)
                ours = rows[ahead][column]
                if ours is False:  # beyond the grid MiniGrid puts walls
                    assert theirs.type == "wall"
                else:
                    assert theirs is ours


@given(somewhere)
@settings(max_examples=60, deadline=None)
def test_things_are_where_a_scan_of_the_grid_finds_them(level):
    _, mask = level.gen_obs_grid()
    expected = set()
    for x in range(level.width):
        for y in range(level.height):
            cell = level.grid.get(x, y)
            place = level.relative_coords(x, y)
            if cell is None or cell.type == "wall" or place is None or not mask[place]:
                continue
            if (x, y) == tuple(level.agent_pos):
                continue
            ahead, right = VIEW - 1 - place[1], place[0] - VIEW // 2
            assert world_cell(level.agent_pos, level.agent_dir, ahead, right) == (x, y)
            expected.add((cell.color, cell.type, ahead, right))
    view = look(level.grid, level.agent_pos, level.agent_dir, level.carrying)
    found = {
        (*thing.name.split()[-1].split("-"), thing.ahead, thing.right) for thing in view.things
    }
    assert found == expected
    assert len(view.things) == len(expected)
    steps = [thing.ahead + abs(thing.right) for thing in view.things]
    assert steps == sorted(steps)


@given(somewhere)
@settings(max_examples=60, deadline=None)
def test_distance_of_the_wall_by_walking(level):
    view = look(level.grid, level.agent_pos, level.agent_dir, level.carrying)
    expected = None
    for steps in range(1, VIEW):
        x, y = np.array(level.agent_pos) + steps * np.array(level.dir_vec)
        inside = 0 <= x < level.width and 0 <= y < level.height
        cell = level.grid.get(x, y) if inside else Wall()
        if cell is not None and cell.type == "wall":
            expected = steps
        if cell is not None and (cell.type == "wall" or (cell.type == "door" and not cell.is_open)):
            break
    assert view.wall == expected


@given(somewhere, st.text(max_size=20))
@settings(max_examples=20, deadline=None)
def test_the_mission_does_not_change_the_words(level, mission):
    before = render(look(level.grid, level.agent_pos, level.agent_dir, level.carrying))
    level.mission = level.surface = mission
    level.instrs = None
    after = render(look(level.grid, level.agent_pos, level.agent_dir, level.carrying))
    assert before == after


@given(somewhere, st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_what_is_out_of_sight_does_not_change_the_words(level, seed):
    _, mask = level.gen_obs_grid()
    before = render(look(level.grid, level.agent_pos, level.agent_dir, level.carrying))
    rng = np.random.default_rng(seed)
    for x in range(level.width):
        for y in range(level.height):
            place = level.relative_coords(x, y)
            if place is None or not mask[place]:
                level.grid.set(x, y, [None, Wall(), Ball("red")][rng.integers(3)])
    assert render(look(level.grid, level.agent_pos, level.agent_dir, level.carrying)) == before


def test_different_views_have_different_words():
    texts = {}
    for name in LEVELS:
        for seed in range(150):
            level = walked(name, seed, [])
            view = look(level.grid, level.agent_pos, level.agent_dir, level.carrying)
            assert texts.setdefault(render(view), view) == view


@pytest.mark.parametrize("door", ["open", "closed", "locked"])
def test_doors_are_told_with_their_state(door):
    level = walked("UnlockLocal", 0, [])
    cell = next(cell for cell in level.grid.grid if cell is not None and cell.type == "door")
    cell.is_open, cell.is_locked = door == "open", door == "locked"
    words = " ".join(
        render(look(level.grid, (x, y), direction, None))
        for x in range(5, 8)  # the lower right room of 2 x 2 rooms of 5 spans 4 to 8
        for y in range(5, 8)
        for direction in range(4)
    )
    assert set(re.findall(r"(\w+) \w+-door", words)) == {door}


def test_a_view_in_words():
    view = View(
        things=(Thing("red-ball", 1, 0), Thing("locked blue-door", 2, -3), Thing("grey-box", 0, 1)),
        wall=3,
        carrying="grey-key",
    )
    assert render(view) == (
        "wall 3-ahead carrying grey-key red-ball 1-ahead locked blue-door 3-left-2-ahead "
        "grey-box 1-right"
    )
    assert render(View((), None, None)) == "nothing"


def test_missions_name_things_as_views_do():
    assert hyphenated("go to the red ball, then pick up a grey box after you open a door") == (
        "go to the red-ball, then pick up a grey-box after you open a door"
    )
    assert hyphenated("put the ball next to the blue object") == (
        "put the ball next to the blue-object"
    )
