"""Success by retries: what is counted, and that arms differ by nothing but what is told."""

from __future__ import annotations

import numpy as np
import pytest

from retro_lightning.environments.base import make_tasks
from retro_lightning.environments.proving_ground import LockedDoor
from retro_lightning.retrospection.actor import ScriptedActor
from retro_lightning.retrospection.attempts import ActorFault
from retro_lightning.retrospection.curves import Arm, measure, scripted_arm, shuffled, table
from tests.unit.retrospection.scenes import Counting, follow_hints, scene

RETRIES = 3
MAKE = scene(Counting("curves"), reward="lift", retries=1)
TASKS = make_tasks("door", MAKE, "test", 60)


def arm(name: str) -> Arm:
    return scripted_arm(name, "door", MAKE, TASKS, retries=RETRIES, seed=1)


def by_hand(told: str | None, number: int, seed: int) -> bool:
    """Whether one attempt succeeds, played without any of the code that is tested."""
    door = LockedDoor()
    seen, info = door.reset(seed=seed)
    task = next(task for task in TASKS if task.seed == seed)
    env = MAKE()
    env._begin(seed)
    reflections = () if told is None else (told,)
    over = False
    while not over:
        valid = tuple(info["valid_actions"])
        action = follow_hints(seen, valid, env.task, reflections, number)
        seen, reward, over, _, info = door.step(action)
    assert task.instruction == env.task.instruction
    return reward > 0


def test_plain_retries_counted_by_hand() -> None:
    plain = arm("plain")
    for row, task in enumerate(TASKS):
        first = by_hand(None, 0, task.seed)
        # Retry k has the number 1000 k; the attempt before it was told nothing either.
        later = [by_hand(None, 1_000 * k, task.seed) for k in range(1, RETRIES + 1)]
        expected = np.maximum.accumulate([first, *later]) if not first else [True] * 4
        assert plain.solved[row].tolist() == list(expected)


def test_solved_stays_solved_and_all_arms_begin_alike() -> None:
    arms = [arm(name) for name in ("plain", "placebo", "oracle")]
    for each in arms:
        assert each.solved.shape == (60, RETRIES + 1)
        assert (np.diff(each.solved.astype(int), axis=1) >= 0).all()
        assert (each.solved[:, 0] == arms[0].solved[:, 0]).all()
    assert arms[2].success(1) == 1.0  # the scripted actor heeds every oracle
    assert arms[0].success(0) == pytest.approx(1 / 6, abs=0.15)
    assert arms[0].success(RETRIES) < 0.8


def test_shuffled_reflections_are_those_of_other_tasks() -> None:
    oracle = arm("oracle")
    write = shuffled(oracle)
    mixed = scripted_arm("mixed", "door", MAKE, TASKS, retries=RETRIES, seed=1, write=write)
    own = {t.task.seed: t.steps[0].action for t in oracle.trajectories}
    for trajectory in mixed.trajectories:
        written = trajectory.steps[0].action
        assert written in own.values()
        assert trajectory.task.instruction.split()[-1] not in written.split()
    assert abs(mixed.success(1) - arm("plain").success(1)) < 0.05


def test_table() -> None:
    def made(name: str, family: str, rows: list[list[int]]) -> Arm:
        return Arm(name, family, np.array(rows, dtype=bool), (), 0)

    metrics = table(
        [
            made("plain", "a", [[0, 1], [0, 0], [1, 1], [0, 0]]),
            made("plain", "b", [[0, 0], [0, 1]]),
            made("oracle", "a", [[0, 1]]),
        ]
    )
    assert metrics == {
        "success@0/plain/a": 0.25,
        "success@1/plain/a": 0.5,
        "success@0/plain/b": 0.0,
        "success@1/plain/b": 0.5,
        "success@0/oracle/a": 0.0,
        "success@1/oracle/a": 1.0,
        "success@0/plain": 0.125,  # the mean over families
        "success@1/plain": 0.5,
        "success@0/oracle": 0.0,
        "success@1/oracle": 1.0,
    }


def test_what_a_reflection_is_worth() -> None:
    env = MAKE()
    written = {}
    for task in TASKS[:10]:
        env.reset(seed=task.seed)
        helpful, wrong = (
            env.write_reflection(quality, np.random.default_rng(0))
            for quality in ("helpful", "wrong")
        )
        written[task.seed] = (helpful, wrong)
    measured = measure("door", MAKE, written, samples=40)
    assert [m.reflection for m in measured] == [text for pair in written.values() for text in pair]
    for good, bad in zip(measured[::2], measured[1::2], strict=True):
        assert (good.told, bad.told) == (1.0, 0.0)
        # Placebo and nothing: the same guesses under the same noise.
        assert good.placebo == good.nothing == bad.nothing
        assert good.lift == 1.0 - good.placebo
    # One key of 6; 3 standard deviations of 400 guesses are 0.06.
    assert np.mean([m.nothing for m in measured]) == pytest.approx(1 / 6, abs=0.06)


def test_measuring_needs_an_actor() -> None:
    def refuse(*_: object) -> str:
        raise OSError("down")

    with pytest.raises(ActorFault, match="down"):
        measure("door", scene(ScriptedActor(refuse, "down")), {0: ["x"]}, samples=1)
