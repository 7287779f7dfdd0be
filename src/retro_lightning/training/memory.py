"""Behaviour half: two stores read as one: the history, and what this run has collected itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from lightning.pytorch.utilities import rank_zero_warn

from retro_lightning.policy.encoded import Encoded
from retro_lightning.policy.transcript import Transcript
from retro_lightning.replay.index import Mask, StoreIndex
from retro_lightning.replay.store import ReplayStore
from retro_lightning.trajectory import Split, Trajectory

_CACHED_TRAJECTORIES = 8_000


class ReplayMemory:
    """The history's rows, which never change, followed by the rows of the run's own store.

    Args:
        history: The history; only read.
        own: The run's own store, the only one that is written; None = there is none.
        transcript: Turns trajectories into tokens.
    """

    def __init__(
        self, history: ReplayStore, own: ReplayStore | None, transcript: Transcript
    ) -> None:
        self._history, self._own, self.transcript = history, own, transcript
        self._encoded: dict[int, tuple[Trajectory, Encoded]] = {}
        self._told_of_cuts = False
        self._reindex()

    def _reindex(self) -> None:
        stores = [self._history] if self._own is None else [self._history, self._own]
        self.index = StoreIndex.concat([store.index for store in stores])

    # ------------------------------------------------------------------ generations
    def append(self, trajectories: Sequence[Trajectory]) -> None:
        """Publish trajectories in the run's own store; they are seen after ``refresh``.

        Raises:
            RuntimeError: If there is no own store.
        """
        if self._own is None:
            raise RuntimeError("this memory only reads: there is no run store to append to")
        if trajectories:
            self._own.append(trajectories)

    def refresh(self) -> None:
        """See what all processes of the run have published."""
        if self._own is not None:
            self._own.refresh()
        self._reindex()

    def state_dict(self) -> dict[str, list[str]]:
        """The generations that are read, of the history and of the run's own store."""
        own = () if self._own is None else self._own.snapshot()
        return {"history": list(self._history.snapshot()), "snapshot": list(own)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Return to the generations of a checkpoint, so that rows are what they were.

        What has been added to the history since is not read; what is newer in the run's own store
        is set aside. Checkpoints of earlier releases do not name the history's generation.

        Raises:
            ValueError: If a shard is missing or damaged.
        """
        if "history" in state:
            self._history.view(state["history"])
        elif self._history.damaged:
            sentence = min(self._history.damaged.values())
            raise ValueError(f"the checkpoint has learnt from more of the history: {sentence}")
        self.restore(state["snapshot"])

    def require_learnable(self) -> None:
        """Refuse to fit where there is nothing to learn from.

        Raises:
            ValueError: Saying what the stores hold instead.
        """
        if not self.learnable.any():
            raise ValueError(
                f"the history {self._history.path} holds no learnable trajectory of a training "
                f"task (of its {len(self.index)}, {self.index.unlearnable}): make or import one "
                "first"
            )

    def restore(self, snapshot: Iterable[str]) -> None:
        """Return to a generation of the run's own store; what is newer is set aside, never read."""
        if self._own is not None:
            self._own.restore(snapshot)
        self._encoded = {}
        self._reindex()

    # ------------------------------------------------------------------ reading
    @property
    def learnable(self) -> Mask:
        """Mask over the index: training tasks only, no faulted or empty trajectory."""
        return self.index.is_train & ~self.index.faulted & (self.index.length > 0)

    def readable(self, split: Split | None) -> npt.NDArray[np.int64]:
        """Rows that a policy can read, of one split or of all: neither faulted nor empty."""
        codes = [code for code, name in enumerate(self.index.splits) if split in (None, name)]
        chosen_N = np.isin(self.index.split, codes)
        return np.flatnonzero(chosen_N & ~self.index.faulted & (self.index.length > 0))

    def fresh(self, policy_version: int | None) -> Mask:
        """Mask over the index: this run's own rollouts of one policy version; None = none."""
        own_N = np.arange(len(self.index)) >= len(self._history)
        if policy_version is None:
            return np.zeros_like(own_N)
        return np.asarray(own_N & (self.index.policy_version == policy_version))

    def load(self, rows: Sequence[int]) -> list[tuple[Trajectory, Encoded]]:
        """Read and encode rows of the index, keeping the latest 8,000 in memory."""
        missing = sorted({row for row in rows if row not in self._encoded})
        trajectories = self._read(missing)
        encoded = self.transcript.encode_many(trajectories)
        self._tell_of_cuts(trajectories, encoded)
        entries = dict(zip(missing, zip(trajectories, encoded, strict=True), strict=True))
        result = [entries[row] if row in entries else self._encoded[row] for row in rows]
        self._encoded.update(entries)
        for row in list(self._encoded)[: max(0, len(self._encoded) - _CACHED_TRAJECTORIES)]:
            del self._encoded[row]
        return result

    def _tell_of_cuts(self, trajectories: Sequence[Trajectory], encoded: Sequence[Encoded]) -> None:
        """Warn of the first batch that holds trajectories which the context cuts."""
        read = list(zip(trajectories, encoded, strict=True))
        cut = [(one, kept.steps) for one, kept in read if kept.steps < one.length]
        if not cut or self._told_of_cuts:
            return
        self._told_of_cuts = True
        first, kept = cut[0]
        rank_zero_warn(
            f"{len(cut)} of {len(read)} trajectories of a batch do not fit into "
            f"{self.transcript.max_length} tokens and are learnt from up to the last step that "
            f"does, such as task {first.task.task_id} ({kept} of {first.length} steps): raise "
            "data.context, use a model with a longer context, or set model.history_window"
        )

    def _read(self, rows: Sequence[int]) -> list[Trajectory]:
        first_own = len(self._history)
        trajectories = self._history.read([row for row in rows if row < first_own])
        if self._own is not None:
            trajectories += self._own.read([row - first_own for row in rows if row >= first_own])
        return trajectories
