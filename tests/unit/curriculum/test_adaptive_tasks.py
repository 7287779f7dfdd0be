"""Task curricula that learn from outcomes: what they choose, and that resuming changes nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from retro_lightning.curriculum.adaptive_tasks import LearningProgress, SuccessBand
from retro_lightning.curriculum.feedback import Feedback, TaskOutcome
from retro_lightning.curriculum.levels import HorizonGrowth, Levels
from retro_lightning.curriculum.pacing import Adaptive, Steps
from retro_lightning.curriculum.tasks import TaskCurriculum
from retro_lightning.trajectory import Task


def _task(family: str, number: int) -> Task:
    return Task(
        task_id=f"{family}:{number}", family=family, instruction="", seed=number, split="train"
    )


FAMILIES = {name: [_task(name, n) for n in range(30)] for name in ("easy", "middle", "hard")}
CHANCE = {"easy": 1.0, "middle": 0.5, "hard": 0.0}

CURRICULA: dict[str, Callable[[], TaskCurriculum]] = {
    "band": SuccessBand,
    "progress": LearningProgress,
    "levels": lambda: Levels(walkers=8),
    "horizon": lambda: HorizonGrowth(pacing=Adaptive(), tasks=SuccessBand()),
}


def _round(
    curriculum: TaskCurriculum,
    number: int,
    n: int = 24,
    chance: dict[str, float] | None = None,
    attempts: int = 1,
) -> list[Task]:
    """Choose, try, tell."""
    tasks = curriculum.choose(FAMILIES, n, np.random.default_rng([7, number]))
    luck = np.random.default_rng([8, number])
    curriculum.observe(Feedback(outcomes=_outcomes(tasks, luck, chance or CHANCE, attempts)))
    return tasks


def _outcomes(
    tasks: Sequence[Task], rng: np.random.Generator, chance: dict[str, float], attempts: int = 1
) -> tuple[TaskOutcome, ...]:
    return tuple(
        TaskOutcome(task.task_id, task.family, bool(rng.random() < chance[task.family]))
        for task in tasks
        for _ in range(attempts)
    )


@pytest.mark.parametrize("name", CURRICULA)
def test_resuming_equals_never_having_stopped(name: str) -> None:
    straight = CURRICULA[name]()
    expected = [_round(straight, number) for number in range(6)]
    stopped, chosen = CURRICULA[name](), []
    for number in range(6):
        resumed = CURRICULA[name]()
        resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
        chosen.append(_round(resumed, number))
        stopped = resumed
    assert chosen == expected
    assert straight.state_dict() == stopped.state_dict()


@pytest.mark.parametrize("name", CURRICULA)
def test_as_many_as_asked_for_and_none_without_tasks(name: str) -> None:
    for n in (1, 7, 100):
        chosen = CURRICULA[name]().choose(FAMILIES, n, np.random.default_rng(0))
        assert len(chosen) == n
        assert all(task in FAMILIES[task.family] for task in chosen)
    with pytest.raises(ValueError, match="no training tasks for maze"):
        CURRICULA[name]().choose({"maze": []}, 1, np.random.default_rng(0))


def test_the_band_leaves_what_is_solved_and_what_is_hopeless() -> None:
    curriculum = SuccessBand(explore=0.25)
    for number in range(12):
        _round(curriculum, number)
    counts = Counter(task.family for task in _round(curriculum, 12, n=40))
    # A quarter of 40 is tried in turn: 3 or 4 of each family; the rest comes from the band.
    assert counts["middle"] >= 30
    assert counts["easy"] + counts["hard"] <= 8


def test_the_band_judges_tasks_and_not_only_families() -> None:
    curriculum = SuccessBand(explore=0.0, prior_weight=1.0)
    solved, hopeless = FAMILIES["middle"][0], FAMILIES["middle"][1]
    outcomes = [
        TaskOutcome(task.task_id, "middle", task is solved)
        for _ in range(10)
        for task in (solved, hopeless)
    ]
    curriculum.observe(Feedback(outcomes=tuple(outcomes)))
    # With memory 0.8 ten attempts count 1 + 0.8 + … + 0.8^9 = 5 (1 - 0.8^10) = 4.463; the family's
    # rate is (10 + 0.5) / (20 + 1) = 1/2, so the estimates are (4.463 + 0.5) / 5.463 and 0.5/5.463.
    assert curriculum.estimate(solved.task_id, "middle") == pytest.approx(0.908, abs=1e-3)
    assert curriculum.estimate(hopeless.task_id, "middle") == pytest.approx(0.092, abs=1e-3)
    chosen = curriculum.choose({"middle": FAMILIES["middle"]}, 60, np.random.default_rng(0))
    assert solved not in chosen
    assert hopeless not in chosen


def test_with_nothing_in_the_band_all_is_tried_alike() -> None:
    curriculum = SuccessBand(explore=0.0)
    nothing = dict.fromkeys(FAMILIES, 0.0)
    for number in range(8):
        _round(curriculum, number, n=90, chance=nothing)
    counts = Counter(task.family for task in _round(curriculum, 8, n=30, chance=nothing))
    assert counts == {"easy": 10, "middle": 10, "hard": 10}


def test_progress_is_where_success_changes_up_or_down() -> None:
    curriculum = LearningProgress(fast=0.5, slow=0.1, uniform_share=0.3)
    names = list(FAMILIES)
    np.testing.assert_allclose(curriculum.shares(names), np.full(3, 1 / 3))

    def tell(easy: int, middle: int, hard: int) -> None:
        each = {"easy": easy, "middle": middle, "hard": hard}
        curriculum.observe(
            Feedback(
                outcomes=tuple(
                    TaskOutcome(f"{name}:{n}", name, n < solved)
                    for name, solved in each.items()
                    for n in range(10)
                )
            )
        )

    tell(9, 4, 0)
    tell(9, 8, 0)
    # Middle: fast 0.4 + 0.5 * 0.4 = 0.6, slow 0.4 + 0.1 * 0.4 = 0.44, distance 0.16; others 0.
    np.testing.assert_allclose(curriculum.shares(names), [0.1, 0.8, 0.1])
    tell(4, 8, 0)
    # Easy is being forgotten: fast 0.9 - 0.25, slow 0.9 - 0.05, distance 0.2. Middle: fast 0.7,
    # slow 0.476, distance 0.224.
    expected = 0.1 + 0.7 * np.array([0.2, 0.224, 0.0]) / 0.424
    np.testing.assert_allclose(curriculum.shares(names), expected)
    counts = Counter(t.family for t in curriculum.choose(FAMILIES, 100, np.random.default_rng(0)))
    for name, share in zip(names, expected, strict=True):
        assert abs(counts[name] - 100 * share) <= 1


def test_walkers_climb_fall_and_start_over() -> None:
    curriculum = Levels(walkers=4)
    assert {t.family for t in _round(curriculum, 0, n=4)} == {"easy"}
    assert curriculum.standing == (1, 1, 1, 1)
    _round(curriculum, 1, n=4, chance={"middle": 1.0})
    assert {t.family for t in _round(curriculum, 2, n=4)} == {"hard"}
    assert curriculum.standing == (1, 1, 1, 1)  # all failed at the hard level
    certain = dict.fromkeys(FAMILIES, 1.0)
    for number in range(3, 5):
        _round(curriculum, number, n=4, chance=certain)
    assert curriculum.standing == (3, 3, 3, 3)  # all have finished
    chosen = [_round(Levels(walkers=1), n, n=1)[0] for n in range(3)]
    assert {t.family for t in chosen} == {"easy"}
    curriculum = Levels(walkers=60)
    curriculum.load_state_dict({**curriculum.state_dict(), "standing": [3] * 60})
    counts = Counter(task.family for task in _round(curriculum, 0, n=60))
    assert min(counts.values()) > 8  # spread over all levels, about 20 on each
    assert set(counts) == set(FAMILIES)


def test_a_walker_is_judged_by_all_its_attempts() -> None:
    curriculum = Levels(walkers=1, promote_from=0.75, demote_below=0.5)
    curriculum.load_state_dict({**curriculum.state_dict(), "standing": [1]})

    def attempt(*successes: bool) -> int:
        (task,) = curriculum.choose(FAMILIES, 1, np.random.default_rng(0))
        results = tuple(TaskOutcome(task.task_id, task.family, s) for s in successes)
        curriculum.observe(Feedback(outcomes=results))
        return curriculum.standing[0]

    assert attempt(True, True, True, False) == 2  # 3/4 is enough
    assert attempt(True, True, False, False) == 2  # a half is neither
    assert attempt(True, False, False, False) == 1
    assert attempt() == 1  # the environment faulted: as if it had not been tried


def test_levels_by_pattern_and_refusals() -> None:
    curriculum = Levels(levels=[["ea*", "middle"], ["hard"]], walkers=2)
    assert {t.family for t in _round(curriculum, 0, n=2)} == {"easy", "middle"}
    with pytest.raises(ValueError, match=r"level 1 .maze.* names no family.*easy, middle, hard"):
        Levels(levels=[["easy"], ["maze*"]]).choose(FAMILIES, 1, np.random.default_rng(0))


def test_the_horizon_grows_in_steps() -> None:
    curriculum = HorizonGrowth(start=4, end=10, pacing=Steps(jumps=2, until=0.5))
    horizons = [curriculum.horizon(progress) for progress in (0.0, 0.2, 0.25, 0.49, 0.5, 1.0)]
    assert horizons == [4, 4, 7, 7, 10, 10]
    nested = HorizonGrowth(start=6, end=6, tasks=curriculum)
    assert nested.horizon(0.0) == 4
    assert nested.horizon(1.0) == 6
    assert SuccessBand().horizon(0.0) is None


def test_the_horizon_hears_of_validation() -> None:
    curriculum = HorizonGrowth(start=2, end=12, pacing=Adaptive(low=0.0, high=1.0))
    curriculum.observe(Feedback(validation_success=0.5))
    assert curriculum.horizon(0.0) == 7


def test_impossible_arguments_are_refused() -> None:
    for make, message in (
        (lambda: SuccessBand(low=0.8, high=0.2), "low is 0.8"),
        (lambda: SuccessBand(explore=2.0), "explore is 2"),
        (lambda: SuccessBand(memory=0.0), "memory is 0"),
        (lambda: SuccessBand(prior_weight=0.0), "prior_weight is 0"),
        (lambda: LearningProgress(fast=0.1, slow=0.5), "slow is 0.5"),
        (lambda: LearningProgress(uniform_share=0.0), "uniform_share is 0"),
        (lambda: Levels(walkers=0), "walkers is 0"),
        (lambda: Levels(levels=[[]]), "has no family"),
        (lambda: Levels(promote_from=0.2, demote_below=0.5), "demote_below is 0.5"),
        (lambda: HorizonGrowth(start=9, end=3), "start is 9"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
