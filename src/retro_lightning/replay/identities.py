"""Behaviour half: which trajectories a store holds: identity and content hash, side by side."""

from __future__ import annotations

import numpy as np

from retro_lightning.replay.store import ReplayStore


class Identities:
    """Identities of stored trajectories, 64 bytes each, and those added since.

    Args:
        ids: Identities, in hexadecimal digits.
        hashes: The content hashes that go with them.
    """

    def __init__(self, ids: np.ndarray, hashes: np.ndarray) -> None:
        order = np.argsort(ids, kind="stable")
        self._ids, self._hashes = ids[order], hashes[order]
        self._added: dict[str, str] = {}

    @classmethod
    def of(cls, store: ReplayStore) -> Identities:
        """The identities of a store's trajectories, damaged shards left out."""
        table = store.columns(("trajectory_id", "content_hash"))
        ids, hashes = (
            np.array(table[name].to_numpy(zero_copy_only=False), dtype="S32")
            for name in table.column_names
        )
        return cls(ids, hashes)

    def find(self, identity: str) -> str | None:
        """The content hash of the trajectory that has this identity; None = there is none."""
        place = int(np.searchsorted(self._ids, identity.encode()))
        if place < len(self._ids) and self._ids[place] == identity.encode():
            return str(self._hashes[place].decode())
        return self._added.get(identity)

    def add(self, identity: str, content_hash: str) -> None:
        """Take note of a trajectory that is new."""
        self._added[identity] = content_hash
