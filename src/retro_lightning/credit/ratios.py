"""Behaviour half: log-ratios to whoever acted, and what becomes of steps that have none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from retro_lightning.credit.terms import CreditInputs
from retro_lightning.trajectory import Task

UnknownBehaviour = Literal["refuse", "leave_out", "as_present"]


class UnknownRatio(ValueError):
    """A ratio to the behaviour is needed and unknown.

    Args:
        owner: Who needs it.
        row: Which trajectory of the batch has none.
        step: At which of its steps.
        task: Its task, where that is known.
    """

    def __init__(self, owner: str, row: int, step: int, task: Task | None = None) -> None:
        named = "" if task is None else f" (task {task.task_id})"
        super().__init__(
            f"{owner} needs a ratio to the behaviour, whose probability is unknown (or not "
            f"positive for every valid action) at step {step} of trajectory {row} of the batch"
            f"{named}: set unknown_behaviour to leave_out or as_present, or draw from other "
            "trajectories"
        )
        self.owner, self.row, self.step = owner, row, step

    def among(self, tasks: Sequence[Task]) -> UnknownRatio:
        """The same with the task by name, of those of all trajectories of the batch."""
        return UnknownRatio(self.owner, self.row, self.step, tasks[self.row])


def known_behaviour(inputs: CreditInputs) -> Tensor:
    """Mask of the steps at which a ratio to the behaviour can be taken.

    Its log-probability is known, and it gave every valid action a positive probability or is the
    present collection's policy.
    """
    usable_BS = inputs.supported_BS | inputs.fresh_B[:, None]
    return inputs.steps_BS & torch.isfinite(inputs.behaviour_logprobs_BS) & usable_BS


def log_ratio_to_behaviour(logprobs_BS: Tensor, inputs: CreditInputs) -> Tensor:
    """``log p - log mu`` of each action, detached; 0 where it is unknown.

    Args:
        logprobs_BS: Log-probabilities ``log p``, of the present policy or of another.
        inputs: The batch, whose behaviour is ``mu``.
    """
    difference_BS = logprobs_BS.detach() - inputs.behaviour_logprobs_BS
    return torch.where(known_behaviour(inputs), difference_BS, 0.0)


def learnt_steps(inputs: CreditInputs, unknown: UnknownBehaviour, owner: str) -> Tensor:
    """Mask of the steps that are learnt from where a ratio to the behaviour is needed.

    Args:
        inputs: The batch.
        unknown: What becomes of trajectories with an unknown ratio; see ``Estimator``.
        owner: Who needs the ratio, for the message.

    Raises:
        UnknownRatio: If a ratio is unknown and ``unknown`` is refuse.
    """
    steps_BS = inputs.steps_BS
    unknown_BS = steps_BS & ~known_behaviour(inputs)
    if unknown == "as_present":
        return steps_BS
    if unknown == "leave_out":
        return steps_BS & ~unknown_BS.any(dim=1, keepdim=True)
    if bool(unknown_BS.any()):
        b, s = unknown_BS.nonzero()[0].tolist()
        raise UnknownRatio(owner, b, s)
    return steps_BS
