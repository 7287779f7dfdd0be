"""The first faults of a fit are told, with task and step; later ones are numbers in the metrics."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from retro_lightning.credit.cloning import FilteredCloning
from retro_lightning.replay.store import ReplayStore
from retro_lightning.training.fault_notice import FaultNotice
from retro_lightning.training.phases import Phase
from tests.fits import Fit, phases
from tests.support import CorridorEnv
from tests.unit.training.test_fault_limit import episodes


class DeadEnd(CorridorEnv):
    """A corridor in which nothing can be done after two steps."""

    def _valid(self) -> list[str]:
        return [] if self.steps >= 2 else super()._valid()


def warned(fit: Fit) -> list[str]:
    """What is said of faults in the course of a fit."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit.run()
    return [str(w.message) for w in caught if "faulted" in str(w.message)]


@pytest.mark.parametrize("stage", ["rollout", "val"])
def test_the_first_faults_of_a_fit_are_told_once(make_fit: Callable[..., Fit], stage: str) -> None:
    cloning = [Phase(FilteredCloning())]  # takes no fresh rollouts: validation meets it first
    settings: dict[str, Any] = {
        "make_phases": lambda: phases(None) if stage == "rollout" else cloning,
        "data": {"environments": {"corridor/dead": functools.partial(DeadEnd, length=9)}},
    }
    fit = make_fit("dead", **settings)
    [told] = warned(fit)
    found = re.match(
        rf"(\d+) of (\d+) {stage} episodes faulted, the first at task (\S+), step 1: "
        "the environment lists no valid action",
        told,
    )
    assert found is not None, told
    faults = int(found[1])
    assert 0 < faults <= int(found[2]) == (8 if stage == "rollout" else 3)
    assert f"{stage}/faults" in told
    if stage == "rollout":
        store = ReplayStore(fit.run_dir / "store")
        first = store.read(range(8))
        assert sum(t.truncation == "fault" for t in first) == faults
        assert found[3] in {t.task.task_id for t in first if t.truncation == "fault"}


def test_where_nothing_faults_nothing_is_told(make_fit: Callable[..., Fit]) -> None:
    assert warned(make_fit("sound", make_phases=lambda: phases(None))) == []


def test_the_second_round_with_faults_is_only_counted() -> None:
    notice = FaultNotice()
    alone: Any = SimpleNamespace(world_size=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        notice(alone, "rollout", episodes(3, 0))  # nothing to tell yet
    with pytest.warns(UserWarning, match="2 of 5 val episodes faulted, the first at task t:0,"):
        notice(alone, "val", episodes(5, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        notice(alone, "rollout", episodes(5, 5))
