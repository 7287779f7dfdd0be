"""Behaviour half: what an epoch learns from: a draw from the stores by the curriculum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from retro_lightning.curriculum.groups import group_codes, sample_groups
from retro_lightning.curriculum.prioritisation import Prioritisation
from retro_lightning.curriculum.sampling import correction, mixed, reserve, sample_batches
from retro_lightning.replay.index import StoreIndex
from retro_lightning.rollout.seeds import generator
from retro_lightning.training.memory import ReplayMemory

_INTEGERS = ("rows", "starts", "groups")
_FLOATS = ("weights", "value_weights", "probabilities")


@dataclass(frozen=True)
class Plan:
    """What an epoch learns from.

    Attributes:
        epoch: Number of the epoch.
        begun: Optimiser steps taken when the epoch began.
        rows: Store rows in order, a batch of them for each gradient step.
        starts: Where each gradient step begins in ``rows``, and where the last one ends.
        weights: Weight of each of ``rows`` in the policy's loss.
        value_weights: Weight of each of ``rows`` in the value loss, which undoes the sampling.
        probabilities: Probability with which each of ``rows`` was drawn in a single draw.
        groups: Number of each row's group within its gradient step; -1 = not drawn in groups.
    """

    epoch: int
    begun: int
    rows: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]
    value_weights: npt.NDArray[np.float64]
    probabilities: npt.NDArray[np.float64]
    groups: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """Gradient steps."""
        return len(self.starts) - 1

    @classmethod
    def in_order(cls, rows: npt.NDArray[np.int64], batch_size: int) -> Plan:
        """Every one of the rows once, in their order, all alike."""
        ones = np.ones(len(rows))
        return cls(
            epoch=0,
            begun=0,
            rows=rows,
            starts=even_starts(len(rows), batch_size),
            weights=ones,
            value_weights=ones,
            probabilities=ones / max(len(rows), 1),
            groups=np.full(len(rows), -1),
        )

    def share(self, step: int, rank: int, world_size: int) -> npt.NDArray[np.int64]:
        """Places in ``rows`` of what one process learns from in a gradient step.

        Trajectories are dealt to the processes one by one, or group by group where they were drawn
        in groups.

        Raises:
            ValueError: If there are fewer groups than processes.
        """
        places = np.arange(self.starts[step], self.starts[step + 1])
        groups = self.groups[places]
        if (groups < 0).all():
            return places[rank::world_size]
        if groups.max() + 1 < world_size:
            raise ValueError(
                f"gradient step {step} of the epoch has {groups.max() + 1} groups for "
                f"{world_size} processes: raise data.batch_size"
            )
        return np.asarray(places[groups % world_size == rank])

    def learnt(self, steps: int) -> npt.NDArray[np.int64]:
        """Rows of the first ``steps`` gradient steps."""
        return self.rows[: self.starts[min(max(steps, 0), len(self))]]

    def state_dict(self) -> dict[str, Any]:
        """The plan as primitives."""
        lists = {name: getattr(self, name).tolist() for name in (*_INTEGERS, *_FLOATS)}
        return {"epoch": self.epoch, "begun": self.begun, **lists}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Plan:
        """The plan of a ``state_dict``; numbers come back exactly."""
        arrays: dict[str, Any] = {
            **{name: np.array(state[name], dtype=np.int64) for name in _INTEGERS},
            **{name: np.array(state[name], dtype=np.float64) for name in _FLOATS},
        }
        return cls(epoch=state["epoch"], begun=state["begun"], **arrays)


def even_starts(count: int, batch_size: int) -> npt.NDArray[np.int64]:
    """Where batches of equal size begin, the last perhaps shorter, and where it ends."""
    return np.append(np.arange(0, count, batch_size), count)


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


def attempt_groups(index: StoreIndex) -> npt.NDArray[np.int64]:
    """Code of each trajectory's group: attempts of one behaviour in one run at one task."""
    return group_codes([index.task_id, index.policy_version, index.behaviour, index.run])


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
    grouped: bool = False,
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
        grouped: Draw whole groups of attempts (``attempt_groups``), each into one gradient step;
            gradient steps then have ``batch_size`` trajectories on average.
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
    if grouped:
        group_N = attempt_groups(index)
        draw = sample_groups(p_N, group_N, learnable_N, batches, batch_size, strata_N, rng)
        rows, starts, groups, p_N = draw.rows, draw.starts, draw.groups, draw.p_N
    else:
        rows = sample_batches(p_N, batches, batch_size, strata_N, rng).rows.ravel()
        starts, groups = even_starts(len(rows), batch_size), np.full(len(rows), -1)
    return Plan(
        epoch=epoch,
        begun=begun,
        rows=rows,
        starts=starts,
        weights=prioritisation.weights(p_N, rows),
        value_weights=correction(p_N, rows, 1.0),
        probabilities=p_N[rows],
        groups=groups,
    )
