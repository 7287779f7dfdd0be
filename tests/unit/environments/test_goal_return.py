"""Asking for a return: what is seen, what is left, and trajectories that say what they got."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retro_lightning.environments.base import make_tasks
from retro_lightning.environments.check import check
from retro_lightning.environments.goal_return import GoalReturn, asking, relabelled, with_goal
from retro_lightning.replay.store import ReplayStore
from retro_lightning.rollout.behaviours import Expert, run_behaviour
from retro_lightning.rollout.goal_history import GoalReturnHistory
from retro_lightning.rollout.history import ScriptedHistory
from retro_lightning.rollout.seeds import generator
from tests.support import CorridorEnv, random_trajectory

MAKE = functools.partial(CorridorEnv, length=6)


def asked(goal: float = 1.0) -> GoalReturn:
    return GoalReturn(MAKE, goal)


def test_it_is_an_environment_like_any_other():
    check(asked, seeds=[0, 1, 2])


def test_what_is_received_is_taken_off_what_is_asked():
    env = asked(1.5)
    observation, info = env.reset(seed=3)
    assert observation.endswith("\nGoal return: 150 %")
    assert "Goal" not in info["initial_state"]
    reward = 0.0
    while reward == 0.0:
        assert observation.endswith("\nGoal return: 150 %")
        observation, reward, *_ = env.step(env.expert_action())
    assert reward == 1.0
    assert observation.endswith("\nGoal return: 50 %")


def test_a_step_cost_grades_the_return():
    env = GoalReturn(MAKE, 1.0, step_cost=0.1)
    env.reset(seed=3)
    total, steps, done = 0.0, 0, False
    while not done:
        observation, reward, done, *_ = env.step(env.expert_action())
        total, steps = total + reward, steps + 1
    # Reward 1 at the end, less a tenth for each step; what is left of the 1 asked for is the cost.
    assert total == pytest.approx(1.0 - 0.1 * steps)
    assert observation.endswith(f"Goal return: {10 * steps} %")


def test_a_goal_is_never_told_above_the_ceiling_and_is_kept_all_the_same():
    env = GoalReturn(MAKE, 1.0, step_cost=0.1, ceiling=1.2)
    observation, _ = env.reset(seed=3)
    told, left = [observation], 1.0
    done = False
    while not done:
        observation, reward, done, *_ = env.step(env.expert_action())
        left -= reward
        told.append(observation)
        assert observation.endswith(f"Goal return: {round(100 * min(left, 1.2))} %")
    # Costs took it to 1.2 and above; the reward of the last step brings it back below.
    assert sum(text.endswith("120 %") for text in told) >= 2
    low = GoalReturn(MAKE, 1.0, ceiling=0.5)
    trajectory = run_behaviour(
        Expert(),
        make_tasks("c", asked, "train", 1)[0],
        low,
        run="r",
        attempt=0,
        rng=generator(0, "expert"),
    )
    shown = [step.observation.rsplit("\n", 1)[1] for step in low.relabelled(trajectory).steps]
    assert shown == ["Goal return: 50 %"] * trajectory.length


def test_tasks_are_those_of_the_environment_within():
    assert make_tasks("c", asked, "val", 3) == make_tasks("c", MAKE, "val", 3)


@given(st.floats(-99, 99), st.floats(-99, 99))
def test_a_goal_replaces_an_older_one(one: float, other: float):
    assert with_goal(with_goal("a wall", one), other) == with_goal("a wall", other)
    assert with_goal("a wall", -0.001) == "a wall\nGoal return: 0 %"


def test_a_goal_is_told_as_the_nearest_level_halves_up():
    levels = [with_goal("", goal).removeprefix("\nGoal return: ") for goal in (0.44, 0.45, -0.25)]
    assert levels == ["40 %", "50 %", "-20 %"]
    # 0.15 is 3 * 0.05 but for rounding (0.15000000000000002): the same level, told alike.
    assert with_goal("", 3 * 0.05) == with_goal("", 0.15) == "\nGoal return: 20 %"
    assert with_goal("", 0.3, resolution=0.25) == "\nGoal return: 25 %"


def test_a_relabelled_trajectory_was_asked_for_what_it_got():
    task = make_tasks("corridor", asked, "train", 1)[0]
    told = run_behaviour(Expert(), task, asked(0.3), run="r", attempt=0, rng=generator(0, "expert"))
    result = relabelled(told)
    # The expert is rewarded 1 for its last action: 1 is left before each of them, 0 at the end.
    assert [s.observation.rsplit("\n", 1)[1] for s in result.steps] == [
        "Goal return: 100 %"
    ] * result.length
    assert result.final_observation.endswith("Goal return: 0 %")
    assert [s.action for s in result.steps] == [s.action for s in told.steps]


@given(st.integers(0, 200))
def test_relabelling_changes_nothing_else_and_is_done_once(seed: int):
    told = random_trajectory(np.random.default_rng(seed))
    once = relabelled(told)
    assert relabelled(once) == once
    assert [s.log_prob for s in once.steps] == [s.log_prob for s in told.steps]
    assert once.total_return == told.total_return
    left = told.total_return
    for step in once.steps:
        shown = float(step.observation.rsplit(": ", 1)[1].removesuffix(" %")) / 100
        assert shown == pytest.approx(left, abs=0.0501)
        left -= step.reward


def test_a_history_is_relabelled_once(tmp_path):
    history = GoalReturnHistory(ScriptedHistory(tasks_per_family=3))
    environments = {"corridor": functools.partial(GoalReturn, MAKE, resolution=0.5)}
    path = history.materialise(environments, tmp_path, 1)
    assert history.materialise(environments, tmp_path, 1) == path
    store = ReplayStore(path)
    plain = ReplayStore(ScriptedHistory(tasks_per_family=3).materialise(environments, tmp_path, 1))
    assert len(store) == len(plain) > 0
    for told, relabelled_ in zip(
        plain.read(range(len(plain))), store.read(range(len(store))), strict=True
    ):
        assert relabelled_ == relabelled(told, functools.partial(with_goal, resolution=0.5))
    finer = {"corridor": functools.partial(GoalReturn, MAKE, resolution=0.25)}
    assert history.materialise(finer, tmp_path, 1) != path
    capped = {"corridor": functools.partial(GoalReturn, MAKE, resolution=0.5, ceiling=0.5)}
    first = ReplayStore(history.materialise(capped, tmp_path, 1)).read([0])[0]
    assert all(step.observation.endswith("return: 50 %") for step in first.steps)


def test_a_family_that_asks_for_no_return_is_named(tmp_path):
    history = GoalReturnHistory(ScriptedHistory(tasks_per_family=3))
    with pytest.raises(ValueError, match="family 'corridor' asks for no return: wrap"):
        history.materialise({"corridor": MAKE}, tmp_path, 1)


def test_another_goal_is_asked_of_the_same_environment():
    make = functools.partial(GoalReturn, MAKE, goal=0.2, resolution=0.5)
    env = asking(make, 1.3, "corridor")()
    assert (env.goal, env.resolution) == (1.3, 0.5)
    assert env.reset(seed=3)[0].endswith("\nGoal return: 150 %")


def test_impossible_goals_are_refused():
    with pytest.raises(ValueError, match="goal is nan"):
        asked(float("nan"))
    with pytest.raises(ValueError, match="ceiling is inf; give a finite number"):
        GoalReturn(MAKE, ceiling=float("inf"))
    with pytest.raises(ValueError, match="resolution is 0; give at least"):
        GoalReturn(MAKE, resolution=0)
