"""Behaviour half: a callback that shows what the curriculum let in, and what was learnt from."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from retro_lightning.curriculum.exposure import by_code
from retro_lightning.curriculum.quality import Quality
from retro_lightning.tracking.curves import save_figure
from retro_lightning.tracking.figures import learning_curve

EXPOSURE_FILE = "exposure.csv"
_BINS = 20
_KINDS = ("logged, solved", "logged, failed", "own, solved", "own, failed")


class CurriculumFigures(Callback):
    """Draws quality over time, what each epoch learnt from, and exposure by family.

    The figures go to ``figures/`` of the run's directory and to MLflow, and ``exposure.csv`` (how
    often each trajectory was learnt from) to the run's directory. The numbers are part of the
    checkpoint. Mean exposure of each family is logged after every epoch.

    Args:
        quality: The measures that the histograms show, whatever the curriculum goes by, so that
            curricula can be compared.
    """

    def __init__(self, quality: Quality | None = None) -> None:
        super().__init__()
        self.quality = quality if quality is not None else Quality()
        self._epochs: list[dict[str, Any]] = []

    # ------------------------------------------------------------------ keeping
    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep what the store holds and what the epoch's plan draws from it."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        index, learnable_N, rows = data.index, data.memory.learnable, data.curricula.plan.rows
        quality_N = self.quality(index, learnable_N)
        own_N = index.policy_version >= 0
        kinds = 2 * own_N[rows] + ~index.success[rows]
        self._epochs = [one for one in self._epochs if one["epoch"] < trainer.current_epoch]
        self._epochs.append(
            {
                "epoch": trainer.current_epoch,
                "step": data.curricula.plan.begun,
                "stored": _shares(quality_N[learnable_N]),
                "drawn": _shares(quality_N[rows]),
                "kinds": (np.bincount(kinds, minlength=4) / len(rows)).tolist(),
                "exposure": None,
                "end": None,
            }
        )

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep and log how often a trajectory of each family was learnt from so far."""
        exposure = _family_exposure(trainer)
        self._epochs[-1] |= {"exposure": exposure, "end": trainer.global_step}
        pl_module.log_dict({f"exposure/{family}": mean for family, mean in exposure.items()})

    def state_dict(self) -> dict[str, Any]:
        """The numbers so far, as primitives."""
        return {"epochs": [dict(one) for one in self._epochs]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the numbers of a checkpoint."""
        self._epochs = [dict(one) for one in state_dict["epochs"]]

    # ------------------------------------------------------------------ drawing
    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw, and write the ledger."""
        if not trainer.is_global_zero or not self._epochs:
            return
        steps = [float(one["step"]) for one in self._epochs]
        save_figure(
            trainer,
            quality_over_time(
                steps, [o["stored"] for o in self._epochs], [o["drawn"] for o in self._epochs]
            ),
            "curriculum_quality",
        )
        kinds = np.array([one["kinds"] for one in self._epochs])
        save_figure(
            trainer,
            learning_curve(
                {name: (steps, kinds[:, place].tolist()) for place, name in enumerate(_KINDS)},
                title="What the curriculum let in",
                ylabel="share of the epoch's trajectories",
                share=True,
            ),
            "curriculum_let_in",
        )
        over = [one for one in self._epochs if one["exposure"] is not None]
        families = sorted({family for one in over for family in one["exposure"]})
        if families:
            save_figure(
                trainer,
                learning_curve(
                    {
                        family: (
                            [float(one["end"]) for one in over],
                            [one["exposure"].get(family, 0.0) for one in over],
                        )
                        for family in families
                    },
                    title="Exposure of each family at the end of each epoch",
                    ylabel="times learnt from, per trajectory",
                ),
                "exposure",
            )
        write_exposure(trainer, Path(trainer.default_root_dir) / EXPOSURE_FILE)


def quality_over_time(
    steps: list[float], stored: list[list[float]], drawn: list[list[float]]
) -> Figure:
    """Two histograms of quality for every epoch: of what is stored, and of what is drawn from it.

    Args:
        steps: Optimiser steps at the beginning of each epoch.
        stored: Share of the learnable trajectories in each of 20 bins of quality, by epoch.
        drawn: The same of the trajectories that the epoch learns from.
    """
    figure = Figure(figsize=(8.5, 3.8), dpi=150, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    edges = [*steps, steps[-1] + (steps[-1] - steps[-2] if len(steps) > 1 else 1.0)]
    most = max(max(map(max, stored)), max(map(max, drawn)))
    for axes, shares, title in zip(panels, (stored, drawn), ("stored", "learnt from"), strict=True):
        image = axes.pcolormesh(
            edges,
            np.linspace(0.0, 1.0, _BINS + 1),
            np.array(shares).T,
            cmap="Blues",
            vmin=0.0,
            vmax=most,
        )
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xlabel("optimiser steps")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    panels[0].set_ylabel("quality (1 = best)")
    figure.suptitle("Quality of trajectories over time", x=0.01, ha="left", fontweight="bold")
    figure.colorbar(image, ax=panels, format=PercentFormatter(1.0), label="share of trajectories")
    return figure


def write_exposure(trainer: L.Trainer, path: Path) -> None:
    """Write the ledger: a line for each trajectory, in the order of the index."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    index, counts_N = data.index, data.exposure()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ("task_id", "family", "behaviour_id", "attempt", "policy_version", "success", "learnt")
        )
        for row in range(len(index)):
            writer.writerow(
                (
                    index.task_ids[index.task_id[row]],
                    index.families[index.family[row]],
                    index.behaviours[index.behaviour[row]],
                    int(index.attempt[row]),
                    int(index.policy_version[row]),
                    int(index.success[row]),
                    int(counts_N[row]),
                )
            )


def _shares(quality: Any) -> list[float]:
    counts, _ = np.histogram(quality, bins=_BINS, range=(0.0, 1.0))
    return [float(share) for share in counts / max(1, len(quality))]


def _family_exposure(trainer: L.Trainer) -> dict[str, float]:
    """Times that a learnable trajectory of each family was learnt from, on average."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    index = data.index
    learnt = by_code(data.exposure(), index.family)
    present = by_code(data.memory.learnable.astype(np.int64), index.family)
    return {
        name: float(learnt[code] / present[code])
        for code, name in enumerate(index.families)
        if present[code]
    }
