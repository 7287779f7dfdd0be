"""Behaviour half: what training needs of stored trajectories as flat arrays, record by record none.

Only views into mapped shards are touched: a batch of 64 costs a fraction of what 64 records do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TrainingArrays:
    """Steps and tokens of B trajectories, one after the other, without padding.

    Attributes:
        step_starts: First step of each trajectory, and the number of all steps at the end [B + 1].
        rewards: Reward of every step.
        log_probs: Log-probability of every action under its behaviour; NaN = unknown.
        token_starts: First token of every step, and the number of all tokens at the end; steps
            without recorded tokens have none.
        tokens: Tokens as the policy saw and wrote them: of every step first what it was fed, then
            what it wrote.
        written: Whether the policy wrote the token, thoughts included; the mask of the loss.
    """

    step_starts: Ints
    rewards: npt.NDArray[np.float64]
    log_probs: npt.NDArray[np.float64]
    token_starts: Ints
    tokens: npt.NDArray[np.int32]
    written: npt.NDArray[np.bool_]

    @classmethod
    def gather(
        cls, count: int, parts: Sequence[tuple[ShardArrays, np.ndarray, np.ndarray]]
    ) -> TrainingArrays:
        """Collect rows of several shards.

        Args:
            count: Number of trajectories.
            parts: Shard, places of its trajectories among all, and their rows in the shard.
        """
        pieces: list[_Piece] = [_NOTHING] * count
        for shard, places, rows in parts:
            for place, row in zip(places.tolist(), rows.tolist(), strict=True):
                pieces[place] = shard.piece(row)
        rewards, log_probs, fed, wrote, fed_ids, wrote_ids = (
            (
                np.concatenate(column) if count else np.zeros(0)
                for column in zip(*pieces, strict=True)
            )
            if count
            else [np.zeros(0)] * 6
        )
        lengths = np.stack([fed, wrote], axis=1).astype(np.int64)
        written = np.repeat(np.tile([False, True], len(lengths)), lengths.ravel())
        tokens = np.empty(len(written), dtype=np.int32)
        tokens[~written], tokens[written] = fed_ids, wrote_ids
        return cls(
            step_starts=np.cumsum([0, *(len(piece[0]) for piece in pieces)]),
            rewards=rewards,
            log_probs=log_probs,
            token_starts=np.concatenate([[0], np.cumsum(lengths.sum(axis=1))]).astype(np.int64),
            tokens=tokens,
            written=written,
        )


_Piece = tuple[np.ndarray, ...]
_NOTHING: _Piece = tuple(np.zeros(0) for _ in range(6))


class ShardArrays:
    """A mapped shard and numpy views of the columns that training needs.

    Args:
        batch: The shard's rows.
    """

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.batch = batch
        self._views: tuple[Any, ...] | None = None

    def piece(self, row: int) -> _Piece:
        """Of one trajectory: rewards, log-probs, tokens fed and written per step, and the ids."""
        if self._views is None:
            self._views = self._make_views()
        starts, rewards, log_probs, known, fed, fed_ids, wrote, wrote_ids = self._views
        first, end = int(starts[row]), int(starts[row + 1])
        logs = log_probs[first:end]
        if known is not None:
            bits = np.unpackbits(known[first // 8 : end // 8 + 1], bitorder="little")
            logs = np.where(bits[first % 8 : first % 8 + end - first], logs, np.nan)
        seen, done = fed[first : end + 1], wrote[first : end + 1]
        return (
            rewards[first:end],
            logs,
            np.diff(seen),
            np.diff(done),
            fed_ids[seen[0] : seen[-1]],
            wrote_ids[done[0] : done[-1]],
        )

    def _make_views(self) -> tuple[Any, ...]:
        steps = self.batch.column("steps")
        fields = steps.values
        log_probs = fields.field("log_prob")
        known = log_probs.buffers()[0]
        generations = fields.field("generation")
        lists = [generations.field(name) for name in ("context_ids", "action_ids")]
        return (
            steps.offsets.to_numpy(),
            fields.field("reward").to_numpy(),
            np.frombuffer(log_probs.buffers()[1], np.float64, len(log_probs)),
            None if known is None else np.frombuffer(known, np.uint8),
            *(view for ids in lists for view in (ids.offsets.to_numpy(), ids.values.to_numpy())),
        )
