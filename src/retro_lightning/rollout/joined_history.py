"""Behaviour half: several histories read as one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from retro_lightning.environments.base import EnvironmentFactory
from retro_lightning.replay.store import ReplayStore
from retro_lightning.rollout.history import History
from retro_lightning.rollout.written_once import written_once

_SHARD = 1_000


@dataclass
class HistoryPart:
    """A history and what it is about.

    Args:
        history: The history.
        families: Names of its families.
    """

    history: History
    families: list[str]


class JoinedHistory(History):
    """Several histories as one, each of its own families.

    Args:
        parts: The histories, each with the families it is about.
    """

    def __init__(self, parts: list[HistoryPart]) -> None:
        if not parts:
            raise ValueError("data.history.parts is empty: name at least one history")
        self.parts = parts

    def materialise(
        self, environments: Mapping[str, EnvironmentFactory], cache_dir: Path, seed: int
    ) -> Path:
        """Make every part and copy it into one store, unless that stands already.

        Raises:
            ValueError: If a part names an unknown family.
        """
        for family in (family for part in self.parts for family in part.families):
            if family not in environments:
                raise ValueError(
                    f"data.history.parts names {family!r}, which is no family of "
                    f"data.environments; there are {', '.join(environments)}"
                )
        made = [
            part.history.materialise(
                {family: environments[family] for family in part.families}, cache_dir, seed
            )
            for part in self.parts
        ]

        def write(store: ReplayStore, name: str) -> None:
            for path in made:
                source = ReplayStore(path)
                for start in range(0, len(source), _SHARD):
                    rows = range(start, min(start + _SHARD, len(source)))
                    store.append(source.read(rows))

        return written_once(cache_dir, {"parts": [path.name for path in made]}, write)
