"""Tasks made from environments: disjoint splits, no task twice."""

import functools

import pytest

from retro_lightning.environments.babyai import BabyAI
from retro_lightning.environments.base import make_tasks, split_of, state_hash
from retro_lightning.environments.maze import Maze
from retro_lightning.environments.tool_use import ToolUse

FAMILIES = {
    "go-to": functools.partial(BabyAI, "GoToLocal", {"room_size": 5, "num_dists": 3}, 30),
    "maze": functools.partial(Maze, "full"),
    "dark-maze": functools.partial(Maze, "partial", size=3),
    "tools": ToolUse,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_splits_are_disjoint_by_initial_state_and_instruction(family):
    tasks = [
        task
        for split, count in (("train", 200), ("val", 60), ("test", 60))
        for task in make_tasks(family, FAMILIES[family], split, count)
    ]
    env = FAMILIES[family]()
    hashes = []
    for task in tasks:
        observation, info = env.reset(seed=task.seed)
        hashes.append(state_hash(observation, info))
        assert split_of(hashes[-1]) == task.split
        assert info["instruction"] == task.instruction
        assert task.task_id == f"{family}:{hashes[-1]}"
    assert len(set(hashes)) == len(tasks)


def test_a_family_with_too_few_tasks_is_named():
    lmrl = functools.partial(Maze, "full", "lmrl")
    with pytest.raises(
        ValueError, match=r"'lmrl' has only \d+ distinct test tasks, 100 were asked"
    ):
        make_tasks("lmrl", lmrl, "test", 100)
