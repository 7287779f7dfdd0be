"""The limit on faults."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from retro_lightning.training.callbacks.faults import FaultLimit
from retro_lightning.trajectory import Trajectory
from tests.tiny import trajectory

NOBODY: Any = None


def episodes(count: int, faults: int, reason: str = "task t:{n}, step 2: it broke") -> list[Any]:
    made: list[Trajectory] = [trajectory(number, 2) for number in range(count)]
    for number in range(faults):
        made[number] = replace(
            made[number],
            terminated=False,
            truncated=True,
            truncation="fault",
            fault=reason.format(n=number),
        )
    return made


def test_up_to_the_share_is_borne() -> None:
    FaultLimit(share=0.3).on_trajectories(NOBODY, NOBODY, "rollout", episodes(30, 9))


def test_beyond_it_the_run_stops_with_a_summary() -> None:
    some = episodes(30, 10) + episodes(2, 2, reason="task u: it melted")
    with pytest.raises(ValueError, match="12 of 32 rollout episodes faulted") as stop:
        FaultLimit(share=0.3).on_trajectories(NOBODY, NOBODY, "rollout", some)
    # Equal reasons are counted together, whatever task they happened at; the most frequent first.
    assert "10 times: task …, step 2: it broke; 2 times: task …: it melted" in str(stop.value)


def test_few_faults_are_always_borne() -> None:
    FaultLimit(share=0.0, at_least=8).on_trajectories(NOBODY, NOBODY, "val", episodes(7, 7))
    with pytest.raises(ValueError, match="8 of 8"):
        FaultLimit(share=0.0, at_least=8).on_trajectories(NOBODY, NOBODY, "val", episodes(8, 8))


def test_impossible_share() -> None:
    with pytest.raises(ValueError, match="share is 1"):
        FaultLimit(share=1.0)
