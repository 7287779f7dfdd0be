"""Behaviour half: what an epoch learns from: a draw from the stores by the curriculum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from retro_lightning.curriculum.prioritisation import Prioritisation
from retro_lightning.curriculum.sampling import correction, mixed, reserve, sample_batches
from retro_lightning.rollout.seeds import generator
from retro_lightning.training.memory import ReplayMemory


@dataclass(frozen=True)
class Plan:
    """What an epoch learns from.

    Attributes:
        epoch: Number of the epoch.
        begun: Optimiser steps taken when the epoch began.
        rows: Store rows in order, a batch of them for each gradient step.
        weights: Weight of each of ``rows`` in the policy's loss.
        value_weights: Weight of each of ``rows`` in the value loss, which undoes the sampling.
    """

    epoch: int
    begun: int
    rows: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]
    value_weights: npt.NDArray[np.float64]

    def state_dict(self) -> dict[str, Any]:
        """The plan as primitives."""
        arrays = ("rows", "weights", "value_weights")
        lists = {name: getattr(self, name).tolist() for name in arrays}
        return {"epoch": self.epoch, "begun": self.begun, **lists}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Plan:
        """The plan of a ``state_dict``; numbers come back exactly."""
        return cls(
            epoch=state["epoch"],
            begun=state["begun"],
            rows=np.array(state["rows"], dtype=np.int64),
            weights=np.array(state["weights"], dtype=np.float64),
            value_weights=np.array(state["value_weights"], dtype=np.float64),
        )


def describe_plan(plan: Plan, memory: ReplayMemory, fresh_version: int | None) -> dict[str, float]:
    """What the curriculum lets in, as shares of the rows drawn for an epoch.

    Returns:
        ``success_share``, ``fresh_share``, ``own_share`` (collected by this run at any time),
        ``distinct_share`` (1 = no row comes twice) and ``mean_return``.
    """
    index, rows = memory.index, plan.rows
    return {
        "success_share": float(index.success[rows].mean()),
        "fresh_share": float(memory.fresh(fresh_version)[rows].mean()),
        "own_share": float((index.policy_version[rows] >= 0).mean()),
        "distinct_share": len(np.unique(rows)) / len(rows),
        "mean_return": float(index.returns[rows].mean()),
    }


def draw_plan(
    memory: ReplayMemory,
    prioritisation: Prioritisation,
    *,
    epoch: int,
    begun: int,
    progress: float,
    batches: int,
    batch_size: int,
    uniform_share: float,
    fresh_version: int | None,
    fresh_share: float | None,
    seed: int,
) -> Plan:
    """An epoch's plan, from its arguments alone.

    Args:
        memory: The stores.
        prioritisation: Which stored trajectories are learnt from.
        epoch: Number of the epoch.
        begun: Optimiser steps taken when it begins.
        progress: Share of the fit that is done, in [0, 1].
        batches: Gradient steps of the epoch.
        batch_size: Trajectories of each.
        uniform_share: Share drawn from all learnable trajectories alike, in (0, 1].
        fresh_version: Policy version of the latest collection; None = there was none.
        fresh_share: Share reserved for the latest collection; None = it gets what prioritisation
            gives it.
        seed: Seed of the draw.
    """
    index, learnable_N = memory.index, memory.learnable
    fresh_N = memory.fresh(fresh_version) & learnable_N
    p_N = mixed(
        prioritisation.probabilities(index, learnable_N, progress), learnable_N, uniform_share
    )
    if fresh_share is not None:
        p_N = reserve(p_N, fresh_N, fresh_share)
    strata_N = index.family + len(index.families) * fresh_N
    rng = generator(seed, "replay", epoch)
    rows = sample_batches(p_N, batches, batch_size, strata_N, rng).ravel()
    return Plan(
        epoch=epoch,
        begun=begun,
        rows=rows,
        weights=prioritisation.weights(p_N, rows),
        value_weights=correction(p_N, rows, 1.0),
    )
