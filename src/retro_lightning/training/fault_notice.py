"""Behaviour half: episodes that fault are said once in words, and counted after that."""

from __future__ import annotations

from collections.abc import Sequence

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn

from retro_lightning.training.processes import gathered
from retro_lightning.trajectory import Trajectory


class FaultNotice:
    """Warns of the first round of episodes in which one faults, with what the first says."""

    def __init__(self) -> None:
        self._told = False

    def __call__(self, trainer: L.Trainer, stage: str, trajectories: Sequence[Trajectory]) -> None:
        """Look at a round; all processes call it together.

        Args:
            trainer: Knows the processes.
            stage: ``rollout``, ``val`` or ``test``.
            trajectories: This process's episodes of the round.
        """
        if self._told:
            return
        ours = [str(t.fault) for t in trajectories if t.truncation == "fault"]
        shares = gathered(trainer, (len(trajectories), ours))
        faults = [fault for _, some in shares for fault in some]
        if faults:
            self._told = True
            rank_zero_warn(
                f"{len(faults)} of {sum(count for count, _ in shares)} {stage} episodes faulted, "
                f"the first at {faults[0]}; correct the environment "
                "(retro_lightning.environments.check tries it): later faults are only counted, in "
                f"{stage}/faults"
            )
