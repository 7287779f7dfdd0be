"""Asked against achieved: levels, what counts, and the slope."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest

from retro_lightning.environments.base import make_tasks
from retro_lightning.environments.goal_return import GoalReturn
from retro_lightning.training.calibration import Level, asked_levels, calibrate, slope
from tests.support import CorridorEnv
from tests.tiny import policy


def level(asked: float, achieved: float, beyond: bool = False) -> Level:
    return Level("f", asked, beyond, achieved, 0.0, 0.0, achieved, achieved, 1)


def test_levels_are_quantiles_each_once_and_one_beyond():
    graded = np.arange(101) / 100.0
    assert asked_levels(graded) == [
        (0.1, False),
        (0.3, False),
        (0.5, False),
        (0.7, False),
        (0.9, False),
        (1.5, True),
    ]
    # Of 0 and 1 alone, nine in ten of them 0: quantiles 0 (four times) and, at 0.9, 0 too.
    assert asked_levels(np.array([0.0] * 95 + [1.0] * 5)) == [(0.0, False), (1.5, True)]


def test_the_slope_is_that_of_the_levels_within_the_data():
    # Achieved = 0.2 + 0.5 * asked; beyond the data it falls off, which is reported and not fitted.
    found = [level(x, 0.2 + 0.5 * x) for x in (0.0, 0.4, 1.0)] + [level(1.5, 0.1, beyond=True)]
    assert slope(found) == pytest.approx(0.5)
    assert math.isnan(slope([level(0.3, 0.3), level(1.0, 0.0, beyond=True)]))


def test_every_level_is_asked_on_the_same_tasks():
    make = functools.partial(GoalReturn, functools.partial(CorridorEnv, length=6))
    tasks = {"corridor": make_tasks("corridor", make, "val", 3)}
    levels = {"corridor": [(0.0, False), (1.0, False), (1.5, True)]}
    results = calibrate(policy(), {"corridor": make}, tasks, levels, episodes=7, seed=1)
    assert [(r.asked, r.beyond, r.episodes) for r in results] == [
        (0.0, False, 7),
        (1.0, False, 7),
        (1.5, True, 7),
    ]
    for result in results:
        assert 0.0 <= result.achieved <= 1.0
        assert result.low <= result.achieved <= result.high
        assert result.success_rate == pytest.approx(result.achieved)  # 1 where it is solved, else 0
        # Returns are 0 or 1: the mean error from 1.5 is 1.5 less their mean.
        if result.asked == 1.5:
            assert result.error == pytest.approx(1.5 - result.achieved)
