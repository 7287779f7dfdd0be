"""Data half: what a fit tells its curricula, in one record."""

from __future__ import annotations

from dataclasses import dataclass

from retro_lightning.curriculum.columns import Floats, Rows


@dataclass(frozen=True, slots=True)
class TaskOutcome:
    """How one fresh attempt at a task went.

    Attributes:
        task_id: The task.
        family: Its family.
        success: Whether it was solved.
    """

    task_id: str
    family: str
    success: bool


@dataclass(frozen=True, slots=True)
class TDErrors:
    """How surprised the value head was by trajectories of a gradient step.

    Attributes:
        rows: Rows of the store [B].
        errors: Mean over each trajectory's steps of ``|r + gamma V(next) - V|`` [B], in units of
            return.
    """

    rows: Rows
    errors: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """Whatever there is to tell at the moment; the same on all processes.

    Attributes:
        validation_success: Success rate on the validation tasks, in [0, 1]; None = not measured.
        outcomes: Fresh attempts at tasks, in order; faulted ones left out.
        td_errors: TD errors of a gradient step; None = none were computed.
    """

    validation_success: float | None = None
    outcomes: tuple[TaskOutcome, ...] = ()
    td_errors: TDErrors | None = None
