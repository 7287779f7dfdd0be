"""Mazes: always solvable, told as they are, with experts that know no more than the agent."""

import functools
import re
from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retro_lightning.environments import check
from retro_lightning.environments.maze import Maze
from retro_lightning.environments.maze_layout import MOVES, double_t, generated

BACK = {"up": "down", "down": "up", "left": "right", "right": "left"}


def reached(layout):
    """Steps from the start, by a search written here."""
    found, queue = {layout.start: 0}, deque([layout.start])
    while queue:
        row, column = cell = queue.popleft()
        for way in layout.exits[cell]:
            other = (row + MOVES[way][0], column + MOVES[way][1])
            if other not in found:
                found[other] = found[cell] + 1
                queue.append(other)
    return found


def play(env, seed):
    _, info = env.reset(seed=seed)
    for number in range(1, 1000):
        action = env.expert_action()
        assert action in info["valid_actions"]
        _, reward, terminated, truncated, info = env.step(action)
        if terminated or truncated:
            assert info["success"] == terminated == (reward == 1.0)
            return info["success"], number
    raise AssertionError("the episode has no end")


@given(st.integers(2, 7), st.integers(0, 6), st.integers(1, 9), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_generated_mazes_are_connected(size, openings, min_distance, seed):
    layout = generated(size, openings, min_distance, np.random.default_rng(seed))
    found = reached(layout)
    assert len(found) == len(layout.exits) == size * size
    for (row, column), ways in layout.exits.items():  # every way leads back
        for way in ways:
            neighbour = (row + MOVES[way][0], column + MOVES[way][1])
            assert BACK[way] in layout.exits[neighbour]
    ways = sum(len(ways) for ways in layout.exits.values()) // 2
    # A spanning tree of n cells has n - 1 ways; a square grid has 2 * size * (size - 1) at most.
    assert ways == min(size * size - 1 + openings, 2 * size * (size - 1))
    farthest = max(generated_distances(layout).values())
    assert found[layout.goal] >= min(min_distance, farthest)
    assert layout.start != layout.goal


def generated_distances(layout):
    """Steps to the goal; ways lead back, so a search from the goal gives them."""
    return reached(type(layout)(layout.exits, layout.goal, layout.start))


def test_double_t_maze_is_lmrl_gyms():
    layouts = [double_t(np.random.default_rng(seed)) for seed in range(200)]
    assert {layout.goal for layout in layouts} == {(8, 6)}
    assert len(layouts[0].exits) == 26  # 25 starting cells and the goal
    assert {layout.start for layout in layouts} == set(layouts[0].exits) - {(8, 6)}
    assert reached(layouts[0]).keys() == layouts[0].exits.keys()
    # By hand: from the upper left corner (1, 1) two right, four down, three right, three down.
    corner = type(layouts[0])(layouts[0].exits, (1, 1), (8, 6))
    assert reached(corner)[(8, 6)] == 2 + 4 + 3 + 3


@pytest.mark.parametrize(
    "arguments",
    [
        {"observation": "full", "openings": 2},
        {"observation": "partial"},
        {"observation": "full", "layout": "lmrl", "max_steps": 50},
        {"observation": "partial", "layout": "lmrl", "max_steps": 50},
    ],
)
def test_contract(arguments):
    assert check(functools.partial(Maze, **arguments)).has_expert


@given(st.integers(0, 10_000), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_full_expert_takes_a_shortest_way(seed, openings):
    env = Maze("full", size=4, openings=openings, max_steps=100)
    env.reset(seed=seed)
    layout = env._layout
    assert play(env, seed) == (True, reached(layout)[layout.goal])


@given(st.integers(0, 10_000), st.integers(2, 5))
@settings(max_examples=40, deadline=None)
def test_partial_expert_passes_every_cell_of_a_maze_without_circles(seed, size):
    # Each of the n - 1 ways of the tree is taken at most twice.
    env = Maze("partial", size=size, max_steps=2 * (size * size - 1))
    assert play(env, seed)[0]


def test_partial_expert_is_a_function_of_the_last_move_and_the_open_ways():
    rule = {}
    env = Maze("partial", size=4, max_steps=30)
    for seed in range(100):
        last = None
        _, info = env.reset(seed=seed)
        while True:
            known = (last, tuple(info["valid_actions"]))
            last = env.expert_action()
            assert rule.setdefault(known, last) == last
            _, _, terminated, truncated, info = env.step(last)
            if terminated or truncated:
                break


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_full_observation_tells_the_maze_as_it_is(seed):
    env = Maze("full", openings=1)
    observation, _ = env.reset(seed=seed)
    layout = env._layout
    drawn, _, where = observation.removeprefix("map ").partition(" at ")
    told = dict(re.findall(r"\b([a-z]\d) ([a-z]+(?:-[a-z]+)*)", drawn))
    assert {cell: tuple(ways.split("-")) for cell, ways in told.items()} == {
        f"{'abcdefg'[row]}{column + 1}": ways for (row, column), ways in layout.exits.items()
    }
    here, goal = re.match(r"(\w+) goal (\w+)", where).groups()
    assert (ord(here[0]) - ord("a"), int(here[1]) - 1) == layout.start
    assert (ord(goal[0]) - ord("a"), int(goal[1]) - 1) == layout.goal


def test_partial_observation_tells_only_the_open_ways():
    env = Maze("partial")
    instructions = set()
    for seed in range(20):
        observation, info = env.reset(seed=seed)
        assert observation == f"open {'-'.join(info['valid_actions'])}"
        instructions.add(info["instruction"])
    assert len(instructions) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"observation": "half"}, "observation is 'half'.*full, partial"),
        ({"layout": "round"}, "layout is 'round'.*generated, lmrl"),
        ({"size": 1}, "size is 1.*at least 2"),
        ({"openings": -1}, "openings is -1"),
        ({"max_steps": 0}, "max_steps is 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Maze(**arguments)
