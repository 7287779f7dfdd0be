"""Speed of learning: steps to a threshold and area under the curve, by hand and by oracle."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retro_lightning.evaluation.comparison import Arm, Run
from retro_lightning.evaluation.speed import area, learning_speed, steps_to


def run(seed: int, *scores: float, every: int = 10) -> Run:
    curve = tuple((every * (i + 1), 0, score) for i, score in enumerate(scores))
    return Run(f"run {seed}", seed, {"maze": {"t": [1.0, 1.0, 1.0]}}, curve)


def arm(label: str, *curves: tuple[float, ...]) -> Arm:
    return Arm(label, tuple(run(seed, *curve) for seed, curve in enumerate(curves)))


FAST = arm("fast", (0.6, 0.5, 0.7), (0.2, 0.6, 0.4))
SLOW = arm("slow", (0.1, 0.5, 0.6), (0.1, 0.2, 0.3))


def test_speeds_by_hand() -> None:
    fast, slow = learning_speed([FAST, SLOW], 0.6)
    assert (fast.reached, slow.reached) == (2, 1)
    assert (fast.steps, slow.steps) == (15.0, 30.0)  # (10 + 20) / 2; (30 + all 30) / 2
    assert (fast.ratio, slow.ratio) == (1.0, 2.0)
    assert fast.area == pytest.approx((0.575 + 0.45) / 2)
    assert slow.fewer[0] == pytest.approx(-15.0)  # seeds: 10 - 30, 20 - 30
    assert slow.fewer[1] < slow.fewer[0] < slow.fewer[2]
    assert slow.larger[0] == pytest.approx((0.425 + 0.2) / 2 - (0.575 + 0.45) / 2)


def test_the_others_are_paired_with_the_first() -> None:
    slow, fast = learning_speed([SLOW, FAST], 0.6)
    assert (fast.ratio, slow.ratio) == (0.5, 1.0)
    assert fast.fewer[0] == pytest.approx(15.0)


def test_seeds_are_paired_by_their_number() -> None:
    turned = Arm("turned", tuple(reversed(SLOW.runs)))
    assert (
        learning_speed([FAST, turned], 0.6)[1].fewer == learning_speed([FAST, SLOW], 0.6)[1].fewer
    )


def test_a_later_fall_does_not_undo_having_reached_it() -> None:
    assert steps_to(run(1, 0.2, 0.9, 0.1), 0.9) == 20
    assert steps_to(run(1, 0.2, 0.9, 0.1), 0.91) is None


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), st.integers(1, 50))
def test_the_area_is_the_mean_of_the_drawn_line(scores: list[float], every: int) -> None:
    places = np.linspace(every, every * len(scores), 4001)
    line = np.interp(places, every * np.arange(1, len(scores) + 1), scores)
    assert math.isclose(area(run(1, *scores, every=every)), line.mean(), abs_tol=2e-3)


def test_one_round_is_an_area_and_one_seed_has_no_interval() -> None:
    one, two = learning_speed([arm("a", (0.5,)), arm("b", (0.75,))], 0.7)
    assert (one.area, two.area) == (0.5, 0.75)
    assert math.isnan(two.larger[0])


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--threshold is 70.*share"):
        learning_speed([FAST, SLOW], 70)
    with pytest.raises(ValueError, match=r"run 0 has no curve.*--threshold"):
        learning_speed([FAST, arm("none", ())], 0.5)
    with pytest.raises(ValueError, match=r"after 20 optimiser steps and run 0 after 30"):
        learning_speed([FAST, arm("short", (0.1, 0.2), (0.1, 0.2))], 0.5)
