"""Behaviour half: a history whose trajectories say at every step what they went on to receive."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from retro_lightning.environments.base import EnvironmentFactory
from retro_lightning.environments.goal_return import asks_returns
from retro_lightning.replay.store import ReplayStore
from retro_lightning.rollout.history import History
from retro_lightning.rollout.written_once import written_once

_CHUNK = 1_000


class GoalReturnHistory(History):
    """Another history, relabelled for return-conditioned learning.

    Args:
        history: The history that is relabelled.
    """

    def __init__(self, history: History) -> None:
        self.history = history

    def materialise(
        self, environments: Mapping[str, EnvironmentFactory], cache_dir: Path, seed: int
    ) -> Path:
        """Make the other history, then its relabelled copy; see ``History``.

        Raises:
            ValueError: If a family asks for no return.
        """
        asking = {f: asks_returns(make(), f) for f, make in environments.items()}
        folder = self.history.materialise(environments, cache_dir, seed)
        source = ReplayStore(folder)

        def write(store: ReplayStore, name: str) -> None:
            for start in range(0, len(source), _CHUNK):
                rows = range(start, min(start + _CHUNK, len(source)))
                store.append([asking[t.task.family].relabelled(t) for t in source.read(rows)])

        shards = list(source.snapshot())
        levels = {f: [env.resolution, str(env.ceiling)] for f, env in asking.items()}
        definition = {"relabelled": folder.name, "shards": shards, "goal levels": levels}
        return written_once(cache_dir, definition, write)
