"""Two stores read as one: what counts as fresh, and that only the run's own store is written."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from retro_lightning.policy.transcript import Transcript
from retro_lightning.replay.store import ReplayStore
from retro_lightning.training.memory import ReplayMemory
from tests.tiny import policy, trajectory


def _store(path: Path, versions: list[int]) -> ReplayStore:
    store = ReplayStore(path, create=True)
    store.append(
        [dataclasses.replace(trajectory(n, 2), policy_version=v) for n, v in enumerate(versions)]
    )
    store.refresh()
    return store


@pytest.fixture
def transcript() -> Transcript:
    """A tiny policy's transcript."""
    return policy().transcript


def test_another_policys_rollouts_of_the_same_version_are_not_fresh(
    tmp_path: Path, transcript: Transcript
) -> None:
    memory = ReplayMemory(
        _store(tmp_path / "history", [7, 3]), _store(tmp_path / "own", [3, 7, 7]), transcript
    )
    # Rows 0 and 1 are the history's: row 0 has version 7 too, but of a policy that is not ours.
    assert memory.fresh(7).tolist() == [False, False, False, True, True]
    assert memory.fresh(3).tolist() == [False, False, True, False, False]
    assert not memory.fresh(None).any()


def test_a_memory_without_own_store_can_not_be_appended_to(
    tmp_path: Path, transcript: Transcript
) -> None:
    memory = ReplayMemory(_store(tmp_path / "history", [1]), None, transcript)
    with pytest.raises(RuntimeError, match="no run store"):
        memory.append([trajectory(5, 2)])
    assert len(memory.index) == 1


@pytest.mark.filterwarnings("ignore:left out")
def test_a_damaged_history_is_read_anew_but_not_gone_on_with(tmp_path: Path) -> None:
    history = _store(tmp_path / "history", [1, 2])
    file = history.files[0]
    state = ReplayMemory(history, None, None).state_dict()  # type: ignore[arg-type]
    history.append(history.read([0]))
    file.write_bytes(file.read_bytes()[:-1])
    damaged = ReplayMemory(ReplayStore(tmp_path / "history"), None, None)  # type: ignore[arg-type]
    assert len(damaged.index) == 1
    with pytest.raises(ValueError, match=r"snapshot needs a shard: shard .* has .* bytes"):
        damaged.load_state_dict(state)
    del state["history"]  # as an earlier release left it
    with pytest.raises(ValueError, match=r"more of the history: shard .* has .* bytes"):
        damaged.load_state_dict(state)
