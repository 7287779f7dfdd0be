"""Behaviour half: a callback that ends a run whose episodes fault too often."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import lightning as L
from lightning.pytorch.callbacks import Callback

from retro_lightning.trajectory import Trajectory

_SHOWN = 3


class FaultLimit(Callback):
    """Stops the run, with a summary, when a round of episodes has too many faults.

    Faults are never learnt from, so a run could go on without learning anything: while a server is
    down, or where reflections keep being too long.

    Args:
        share: Largest share of a round's episodes, in [0, 1), that may be faults.
        at_least: Faults below this number are always borne.
    """

    def __init__(self, share: float = 0.3, at_least: int = 8) -> None:
        super().__init__()
        if not 0.0 <= share < 1.0:
            raise ValueError(f"FaultLimit.share is {share}; give a share of at least 0, below 1")
        self.share, self.at_least = share, at_least

    def on_trajectories(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        stage: str,
        trajectories: Sequence[Trajectory],
    ) -> None:
        """Count the faults of a round.

        Raises:
            ValueError: If there are too many.
        """
        faults = [trajectory for trajectory in trajectories if trajectory.truncation == "fault"]
        if len(faults) < max(1, self.at_least) or len(faults) <= self.share * len(trajectories):
            return
        reasons = Counter(_reason(fault) for fault in faults).most_common(_SHOWN)
        told = "; ".join(f"{count} times: {reason}" for reason, count in reasons)
        raise ValueError(
            f"{len(faults)} of {len(trajectories)} {stage} episodes faulted, more than "
            f"the share of {self.share:g} that FaultLimit allows: {told}"
        )


def _reason(fault: Trajectory) -> str:
    """What went wrong, without the task it went wrong at, so that equal reasons count together."""
    return re.sub(r"task \S+?([,:]?)(?=\s)", r"task …\1", str(fault.fault))
