"""Behaviour half: validation without an environment: how likely held-out trajectories are.

A policy that has learnt from logs alone can't be tried. What can be asked is whether it finds what
went well more likely than what went badly, on tasks that it has not learnt from. That is no success
rate: it says nothing of actions that nobody took.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from retro_lightning.policy.actions import LogitsNotFinite, first_not_finite
from retro_lightning.policy.batch import Batch
from retro_lightning.policy.policy import Policy
from retro_lightning.training.batches import ReplayBatches
from retro_lightning.training.memory import ReplayMemory
from retro_lightning.training.plan import Plan
from retro_lightning.trajectory import Split


@dataclass(frozen=True, slots=True)
class Scored:
    """A held-out trajectory and how likely the policy finds it.

    Attributes:
        task: Code of its task.
        total_return: Its undiscounted return.
        success: Whether the task was solved.
        logprob: Mean log-probability of what was chosen, in nats per token choice (a token of free
            text, or a decision between valid actions), so that long texts do not pass for bad ones.
    """

    task: int
    total_return: float
    success: bool
    logprob: float


class HeldOutBatches:
    """Iterates over the trajectories of a split that a policy can read, each once.

    Args:
        memory: The stores.
        split: ``val`` or ``test``.
        batch_size: Trajectories in a batch.
        rank: This process's number; it takes every ``world_size``-th trajectory.
        world_size: Number of processes.

    Raises:
        ValueError: If the split has no trajectory with steps.
    """

    def __init__(
        self, memory: ReplayMemory, split: Split, batch_size: int, rank: int, world_size: int
    ) -> None:
        rows = memory.readable(split)
        if len(rows) == 0:
            raise ValueError(
                f"there is no environment to try a policy in, and the store holds no trajectory of "
                f"a {split} task to judge it by: name data.environments, or import more logs (the "
                "split follows from the task)"
            )
        self._memory = memory
        plan = Plan.in_order(rows[rank::world_size], batch_size)
        self._batches = ReplayBatches(plan, memory.load, parts=1)

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._batches)

    def __iter__(self) -> Iterator[list[Batch]]:
        """Yield the batches."""
        return iter(self._batches)


@torch.no_grad()
def score(policy: Policy, parts: Sequence[Batch], tasks: Sequence[int]) -> list[Scored]:
    """How likely the policy finds each trajectory of a batch.

    Args:
        policy: The policy, in evaluation mode.
        parts: The batch.
        tasks: Code of every stored trajectory's task, by row.

    Raises:
        ValueError: If a log-probability is not finite; names task and step.
    """
    result = []
    for part in parts:
        logprobs_BS = _logprobs(policy, part)
        total_B = torch.where(part.steps_BS, logprobs_BS, 0.0).sum(dim=1)
        chosen = torch.cat([part.decision_row_D, part.text_row_F])
        choices_B = torch.bincount(chosen, minlength=len(part)).clamp(min=1)
        mean_B = (total_B / choices_B).tolist()
        returns, successes = part.total_return_B.tolist(), part.success_B.tolist()
        for row, total, success, mean in zip(
            part.rows_B.tolist(), returns, successes, mean_B, strict=True
        ):
            result.append(Scored(int(tasks[row]), total, bool(success), mean))
    return result


def stored_logprobs(policy: Policy, parts: Sequence[Batch]) -> list[tuple[int, list[float]]]:
    """Of each trajectory its row in the store and the log-probability of each step's action.

    Raises:
        ValueError: If a log-probability is not finite; names task and step.
    """
    result = []
    for part in parts:
        logprobs_BS = _logprobs(policy, part)
        for row, logprobs_S, steps_S in zip(
            part.rows_B.tolist(), logprobs_BS, part.steps_BS, strict=True
        ):
            result.append((row, logprobs_S[steps_S].tolist()))
    return result


def _logprobs(policy: Policy, part: Batch) -> Tensor:
    """Log-probabilities [B, S] of the actions, all of them finite."""
    logprobs_BS = policy.evaluate(part).logprobs_BS
    place = first_not_finite(logprobs_BS, part.steps_BS)
    if place is not None:
        row, step = place
        raise ValueError(f"task {part.tasks[row].task_id}, step {step}: {LogitsNotFinite(row)}")
    return logprobs_BS


def held_out_metrics(scored: Sequence[Scored]) -> dict[str, float]:
    """What held-out trajectories say of a policy; what they can't say is left out.

    Args:
        scored: Trajectories of tasks that were not learnt from.

    Returns:
        ``logprob``: mean log-probability, in nats per token choice, each trajectory alike; higher =
        the policy does what the logs did. ``logprob_success`` and ``logprob_failure``: the same of
        those that solved their task and of the others. ``logprob_margin``: their difference; higher
        = what went well is more likely than what went badly. ``ranking_accuracy``: of two attempts
        at one task with different returns, how often the better is the more likely, in [0, 1],
        each task alike; 0.5 = chance. ``ranked_tasks``: how many tasks that rests on.
    """
    metrics = {"logprob": _mean([one.logprob for one in scored])}
    solved = [one.logprob for one in scored if one.success]
    failed = [one.logprob for one in scored if not one.success]
    if solved:
        metrics["logprob_success"] = _mean(solved)
    if failed:
        metrics["logprob_failure"] = _mean(failed)
    if solved and failed:
        metrics["logprob_margin"] = _mean(solved) - _mean(failed)
    by_task: dict[int, list[Scored]] = {}
    for one in scored:
        by_task.setdefault(one.task, []).append(one)
    accuracies = [a for attempts in by_task.values() if (a := _accuracy(attempts)) is not None]
    if accuracies:
        metrics["ranking_accuracy"] = _mean(accuracies)
    metrics["ranked_tasks"] = float(len(accuracies))
    return metrics


def _accuracy(attempts: Sequence[Scored]) -> float | None:
    """Share of pairs of different return whose better one is more likely; None = no such pair."""
    outcomes = [
        1.0 if better.logprob > worse.logprob else 0.5 * (better.logprob == worse.logprob)
        for better in attempts
        for worse in attempts
        if better.total_return > worse.total_return
    ]
    return _mean(outcomes) if outcomes else None


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
