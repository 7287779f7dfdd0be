"""Several histories as one."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from retro_lightning.replay.store import ReplayStore
from retro_lightning.rollout.behaviours import Expert, RandomWalker
from retro_lightning.rollout.history import BehaviourShare, ScriptedHistory
from retro_lightning.rollout.joined_history import HistoryPart, JoinedHistory
from tests.support import CorridorEnv

ENVIRONMENTS: Any = {
    "short": functools.partial(CorridorEnv, length=5),
    "long": functools.partial(CorridorEnv, length=8),
}


def by(behaviour: Any, tasks: int) -> ScriptedHistory:
    return ScriptedHistory(tasks_per_family=tasks, behaviours=[BehaviourShare(behaviour)])


def test_every_part_is_about_its_own_families(tmp_path: Path) -> None:
    history = JoinedHistory(
        [
            HistoryPart(by(Expert(), 3), ["short"]),
            HistoryPart(by(RandomWalker(), 4), ["long", "short"]),
        ]
    )
    path = history.materialise(ENVIRONMENTS, tmp_path, 1)
    store = ReplayStore(path)
    made = Counter((t.task.family, t.behaviour_id) for t in store.read(range(len(store))))
    assert made == {("short", "expert"): 3, ("long", "random"): 4, ("short", "random"): 4}
    assert history.materialise(ENVIRONMENTS, tmp_path, 1) == path
    assert history.materialise(ENVIRONMENTS, tmp_path, 2) != path


def test_unknown_families_and_no_parts() -> None:
    with pytest.raises(ValueError, match="names 'wide', which is no family"):
        JoinedHistory([HistoryPart(by(Expert(), 1), ["wide"])]).materialise(ENVIRONMENTS, Path(), 1)
    with pytest.raises(ValueError, match="parts is empty"):
        JoinedHistory([])
