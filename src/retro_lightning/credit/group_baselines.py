"""Behaviour half: baselines from the other attempts of a trajectory's group.

A group is what one policy version has tried at one task; its trajectories are independent draws
from the same distribution, so that the others say what was to be expected of the one at hand.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from torch import Tensor

from retro_lightning.credit.baselines import Baseline, Read, each_step
from retro_lightning.credit.statistics import Codes, Floats, Outcomes, groups, others_mean
from retro_lightning.trajectory import Trajectory

Visit = tuple[int, Hashable, Hashable, float]
"""Row of the trajectory, action, what came of it (reward, next state), return-to-go."""


class LeaveOneOut(Baseline):
    """Subtracts the mean return of the other attempts of the group (RLOO).

    Kool, van Hoof & Welling 2019; Ahmadian et al. 2024 (arXiv 2402.14740), eq. 6. Unbiased. A
    trajectory without another in its group gets the mean of the other attempts at its task, or
    else of all.
    """

    needs_groups = True

    def __init__(self) -> None:
        self._baseline_N: Floats = np.empty(0)

    def update(self, columns: Outcomes) -> None:
        """Renew the means; see ``Baseline``."""
        self._baseline_N = leave_one_out(columns)

    def __call__(self, rows_B: Tensor, values_BS: Tensor) -> Tensor:
        """The mean over the others, the same at every step."""
        return each_step(self._baseline_N, rows_B, values_BS)


class GroupMean(Baseline):
    """Subtracts the mean return of the whole group, the trajectory at hand included (GRPO).

    Shao et al. 2024 (arXiv 2402.03300), the mean of eq. 3. Against the rule of the others it
    contains its own trajectory; with undiscounted returns the expected gradient of a group of
    ``n`` is thereby exactly ``(n - 1) / n`` times the true one, since ``R_i - mean = (n - 1) / n *
    (R_i - mean of the others)``. Groups of equal size are only scaled; small groups among large
    ones lose weight, and a group of one teaches nothing.
    """

    needs_groups = True

    def __init__(self) -> None:
        self._baseline_N: Floats = np.empty(0)

    def update(self, columns: Outcomes) -> None:
        """Renew the means; see ``Baseline``."""
        group_N = groups(columns)
        weight_N = (~columns.faulted).astype(np.float64)
        total_N = np.bincount(group_N, weight_N * columns.returns)[group_N]
        self._baseline_N = total_N / np.maximum(np.bincount(group_N, weight_N)[group_N], 1.0)

    def __call__(self, rows_B: Tensor, values_BS: Tensor) -> Tensor:
        """The group's mean, the same at every step."""
        return each_step(self._baseline_N, rows_B, values_BS)


class AnchorStates(Baseline):
    """Subtracts the mean return-to-go of the group's other visits to the same state (GiGPO).

    Feng et al. 2025 (arXiv 2505.10978), eqs. 6 to 8: steps of a group in which the same was seen
    and the same could be done form a group of their own. Where no other attempt has been there, the
    leave-one-out mean stands in. Left out of the paper: the episode's advantage is not added, for a
    baseline is subtracted once, and nothing is divided by a standard deviation.

    Equal observations can hide different states (*aliasing*). Where the same action at an anchor
    led the other attempts to different rewards or observations, the anchor isn't trusted and the
    leave-one-out mean stands in. Only the others are asked, so that the baseline stays independent
    of the trajectory at hand; an alias that none of them shows goes unseen.

    Args:
        gamma: Discount per step of the returns-to-go; the same as the objective's.

    Attributes:
        anchored_share: Share of the steps of the latest batch that had an anchor.
        aliased_share: Share of its steps whose anchor was not trusted.
    """

    needs_groups = True

    def __init__(self, gamma: float = 1.0) -> None:
        if not 0.0 <= gamma <= 1.0:
            raise ValueError(f"AnchorStates: gamma is {gamma}; give a number between 0 and 1")
        self.gamma = gamma
        self.anchored_share = self.aliased_share = 0.0
        self._read: Read | None = None
        self._fallback_N: Floats = np.empty(0)
        self._group_N: Codes = np.empty(0, dtype=np.int64)
        self._faulted_N = np.empty(0, dtype=np.bool_)
        self._visits: dict[int, dict[Hashable, list[Visit]]] = {}
        self._members: dict[int, list[int]] = {}

    def attach(self, read: Read) -> None:
        """See ``Baseline``."""
        self._read = read

    def update(self, columns: Outcomes) -> None:
        """Renew the groups; see ``Baseline``."""
        self._fallback_N = leave_one_out(columns)
        self._group_N, self._faulted_N = groups(columns), columns.faulted
        self._visits.clear()
        self._members.clear()
        for row in np.flatnonzero(~self._faulted_N).tolist():
            self._members.setdefault(int(self._group_N[row]), []).append(row)

    def __call__(self, rows_B: Tensor, values_BS: Tensor) -> Tensor:
        """The mean over the others' visits, step by step.

        Raises:
            RuntimeError: If it was never told how to read trajectories.
        """
        baseline_BS = each_step(self._fallback_N, rows_B, values_BS).clone()
        steps = anchored = aliased = 0
        for b, row in enumerate(rows_B.tolist()):
            visits = self._group(int(self._group_N[row]))
            for s, key in enumerate(self._keys(row)[: values_BS.shape[1]]):
                others = [visit for visit in visits[key] if visit[0] != row]
                steps += 1
                if not others:
                    continue
                if is_aliased(others):
                    aliased += 1
                    continue
                anchored += 1
                baseline_BS[b, s] = sum(visit[3] for visit in others) / len(others)
        self.anchored_share = anchored / max(steps, 1)
        self.aliased_share = aliased / max(steps, 1)
        return baseline_BS

    def _trajectories(self, rows: Sequence[int]) -> Sequence[Trajectory]:
        if self._read is None:
            raise RuntimeError("AnchorStates reads trajectories: call attach before it is used")
        return self._read(rows)

    def _keys(self, row: int) -> list[Hashable]:
        return [anchor(step.observation, step.valid_actions) for step in self._one(row).steps]

    def _one(self, row: int) -> Trajectory:
        return self._trajectories([row])[0]

    def _group(self, group: int) -> dict[Hashable, list[Visit]]:
        """The visits of all members of a group by anchor; made once after each ``update``."""
        if group not in self._visits:
            found: dict[Hashable, list[Visit]] = {}
            rows = self._members.get(group, [])
            for row, trajectory in zip(rows, self._trajectories(rows), strict=True):
                for key, visit in visits_of(row, trajectory, self.gamma):
                    found.setdefault(key, []).append(visit)
            self._visits[group] = found
        return self._visits[group]


def leave_one_out(columns: Outcomes) -> Floats:
    """Mean return of the others of each trajectory's group [N], with wider means where alone."""
    weight_N = (~columns.faulted).astype(np.float64)
    everyone = np.zeros(len(weight_N), dtype=np.int64)
    overall_N = others_mean(columns.returns, weight_N, everyone, fallback=0.0)
    task_N = others_mean(columns.returns, weight_N, columns.task_id, fallback=overall_N)
    return others_mean(columns.returns, weight_N, groups(columns), fallback=task_N)


def anchor(observation: str, valid_actions: tuple[str, ...] | None) -> Hashable:
    """What two steps must share to count as visits to the same state."""
    return observation, valid_actions


def visits_of(row: int, trajectory: Trajectory, gamma: float) -> list[tuple[Hashable, Visit]]:
    """A trajectory's visits: the anchor of each step, and what was done there and came of it."""
    result: list[tuple[Hashable, Visit]] = []
    after = anchor(trajectory.final_observation, trajectory.final_valid_actions)
    total = 0.0
    for step in reversed(trajectory.steps):
        total = step.reward + gamma * total
        key = anchor(step.observation, step.valid_actions)
        result.append((key, (row, step.action, (step.reward, after), total)))
        after = key
    return result[::-1]


def is_aliased(visits: Sequence[Visit]) -> bool:
    """Whether the same action led two visits of an anchor to different outcomes."""
    outcomes: dict[Hashable, Hashable] = {}
    return any(outcomes.setdefault(action, came) != came for _, action, came, _ in visits)
