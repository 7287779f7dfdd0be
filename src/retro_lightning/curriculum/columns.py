"""Data half: what the curriculum sees of a store, and the names of its arrays."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class Columns(Protocol):
    """Columns of a whole store, one entry per trajectory, in order of publication."""

    @property
    def returns(self) -> Floats:
        """Undiscounted return [N], in the environment's units."""

    @property
    def success(self) -> Mask:
        """Whether the task was solved [N]."""

    @property
    def length(self) -> Codes:
        """Number of steps (turns, not tokens) [N]."""

    @property
    def policy_version(self) -> Codes:
        """Optimiser steps taken when the rollout began [N]; -1 = no policy of ours."""

    @property
    def task_id(self) -> Codes:
        """Code of the task [N], from 0; equal code = equal task."""

    @property
    def family(self) -> Codes:
        """Code of the family [N], from 0."""

    @property
    def families(self) -> tuple[str, ...]:
        """Names of the families, by their codes."""


def require_some(learnable_N: Mask) -> None:
    """Refuse a store of which nothing can be learnt from.

    Raises:
        ValueError: If no entry is true.
    """
    if not learnable_N.any():
        raise ValueError(
            f"the store holds {len(learnable_N)} trajectories, none to learn from (training "
            "task, not faulted, at least one step): add some before training"
        )
