"""Pacing: from closed to open, never back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retro_lightning.curriculum.pacing import Adaptive, Linear, Pacing, Root, Steps


@pytest.mark.parametrize("pacing", [Linear(0.5), Root(0.5), Steps(3, 0.5)])
def test_opens_from_nothing_to_everything(pacing: Pacing) -> None:
    steps = [pacing(i / 100) for i in range(101)]
    assert steps[0] == 0
    assert steps == sorted(steps)
    assert all(step == 1 for step in steps[50:])


def test_values_by_hand() -> None:
    assert Linear(0.8)(0.2) == pytest.approx(0.25)
    # sqrt(0.2 / 0.8) = 0.5
    assert Root(0.8)(0.2) == pytest.approx(0.5)
    # Three jumps by 0.6: at 0.2, 0.4 and 0.6; 0.1 * 2 and 0.1 * 6 are a hair off, jumps are not.
    opened = [Steps(3, 0.6)(p) for p in (0.0, 0.19, 0.1 * 2, 0.39, 0.4, 0.1 * 6, 1.0)]
    assert opened == pytest.approx([0, 0, 1 / 3, 1 / 3, 2 / 3, 1, 1])
    adaptive = Adaptive(low=0.2, high=0.8)
    adaptive.observe(0.35)
    # (0.35 - 0.2) / (0.8 - 0.2) = 0.25
    assert adaptive(0.0) == pytest.approx(0.25)


@given(st.lists(st.floats(0, 1)))
def test_adaptive_never_closes_and_survives_a_checkpoint(rates: list[float]) -> None:
    pacing, before = Adaptive(), 0.0
    for rate in rates:
        pacing.observe(rate)
        restored = Adaptive()
        restored.load_state_dict(json.loads(json.dumps(pacing.state_dict())))
        assert before <= pacing(0.0) == restored(0.9) <= 1
        before = pacing(0.0)


def test_impossible_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="Linear: until is 0"):
        Linear(0.0)
    with pytest.raises(ValueError, match="Root: until is 2"):
        Root(2.0)
    with pytest.raises(ValueError, match="Steps: jumps is 0"):
        Steps(0)
    with pytest.raises(ValueError, match=r"low is 0\.8 and high is 0\.2"):
        Adaptive(0.8, 0.2)
