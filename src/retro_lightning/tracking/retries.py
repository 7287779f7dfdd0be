"""Behaviour half: a callback that measures what reflections are worth, when a run is tested."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.table import Table

from retro_lightning.environments.base import EnvironmentFactory, make_tasks
from retro_lightning.evaluation import wilson
from retro_lightning.policy.policy import Policy
from retro_lightning.retrospection.curves import (
    SCRIPTED,
    Arm,
    Measured,
    measure,
    policy_arm,
    scripted_arm,
    shuffled,
    table,
)
from retro_lightning.retrospection.scripted import require_retrospection
from retro_lightning.tracking.curves import save_figure
from retro_lightning.tracking.figures import retry_curves
from retro_lightning.tracking.mlflow import MLflowRun
from retro_lightning.trajectory import Task

RESULTS_FILE = "retries.json"
TRAINED, BEFORE, SHUFFLED = "trained", "before", "shuffled"
_SAMPLES_TABLE = "reflections.json"


class RetryCurves(Callback):
    """Success after 0, 1, 2 … retries on test tasks, for every way of reflecting.

    Arms: ``plain`` (the actor just tries again), ``placebo``, ``before`` (the reflector as it ended
    its first phase, if ``PhasePolicies`` kept it), ``trained``, ``shuffled`` (what ``trained``
    wrote for other tasks) and ``oracle``. Metrics are ``test/success@k/<arm>``, the mean over the
    families that were trained on, and ``test/success@k/<arm>/<family>``; ``test/oracle_share@k`` is
    how much of the oracle's gain the trained reflector reaches. The outcome of every task is kept
    in ``retries.json`` of the run's directory.

    Args:
        retries: Most retries.
        tasks: Test tasks of each family. Higher = narrower intervals.
        held_out: Families that were not trained on: name → environment.
        shown: Tasks of each family whose reflections before and after training are logged side by
            side, with their lift.
        lift_samples: Retries of each kind that such a lift is measured with.
    """

    def __init__(
        self,
        retries: int = 4,
        tasks: int = 100,
        held_out: dict[str, EnvironmentFactory] | None = None,
        shown: int = 3,
        lift_samples: int = 16,
    ) -> None:
        super().__init__()
        for name, value in (("retries", retries), ("tasks", tasks), ("lift_samples", lift_samples)):
            if value < 1:
                raise ValueError(f"RetryCurves.{name} is {value}; give at least 1")
        self.retries, self.tasks = retries, tasks
        self.held_out = held_out if held_out is not None else {}
        self.shown, self.lift_samples = shown, lift_samples

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse families that no reflections are written in before anything is trained."""
        for family, make in self.held_out.items():
            require_retrospection(make(), family).close()

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure, keep, draw, print."""
        if not trainer.is_global_zero:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        module: Any = pl_module
        run_dir = Path(trainer.default_root_dir)
        policies = {BEFORE: _before(run_dir), TRAINED: module.require_policy()}
        arms: list[Arm] = []
        rows: list[dict[str, Any]] = []
        families = {**data.environments, **self.held_out}
        for family, make in families.items():
            tasks = make_tasks(family, make, "test", self.tasks)
            tried = self._arms(family, make, tasks, policies, module.seed)
            arms += tried
            rows += self._samples(family, make, tried)
        self._keep(trainer, run_dir, arms)
        for logger in trainer.loggers:
            if isinstance(logger, MLflowRun):
                logger.log_rows(rows, _SAMPLES_TABLE)
        Console().print(closing_table(arms, list(self.held_out)))

    def _arms(
        self,
        family: str,
        make: EnvironmentFactory,
        tasks: Sequence[Task],
        policies: Mapping[str, Policy | None],
        seed: int,
    ) -> list[Arm]:
        """All arms on the same tasks of one family."""
        arms = [
            scripted_arm(name, family, make, tasks, retries=self.retries, seed=seed)
            for name in SCRIPTED
        ]
        for name, policy in policies.items():
            if policy is not None:
                arms.append(
                    policy_arm(name, family, make, tasks, policy, retries=self.retries, seed=seed)
                )
        write = shuffled(arms[-1])
        arms.append(
            scripted_arm(
                SHUFFLED, family, make, tasks, retries=self.retries, seed=seed, write=write
            )
        )
        return arms

    def _samples(
        self, family: str, make: EnvironmentFactory, arms: Sequence[Arm]
    ) -> list[dict[str, Any]]:
        """First reflections before and after training, side by side, with what they are worth."""
        named = {arm.name: arm.trajectories for arm in arms if arm.name in (BEFORE, TRAINED)}
        both = zip(named.get(BEFORE, named[TRAINED]), named[TRAINED], strict=True)
        chosen = [pair for pair in both if all(t.steps for t in pair)][: self.shown]
        written = {
            trained.task.seed: (before.steps[0].action, trained.steps[0].action)
            for before, trained in chosen
        }
        measured = iter(measure(family, make, written, samples=self.lift_samples))
        return [
            {
                "family": family,
                "task": trained.task.instruction,
                "attempt": trained.steps[0].observation,
                **_side_by_side(next(measured), next(measured)),
            }
            for _, trained in chosen
        ]

    def _keep(self, trainer: L.Trainer, run_dir: Path, arms: Sequence[Arm]) -> None:
        trained_on = [arm for arm in arms if arm.family not in self.held_out]
        held_out = [arm for arm in arms if arm.family in self.held_out]
        means = table(trained_on)
        per_family = {k: v for k, v in table(held_out).items() if k.count("/") > 1}
        metrics = {f"test/{name}": value for name, value in {**means, **per_family}.items()}
        metrics |= {
            f"test/oracle_share@{retries}": share
            for retries in range(1, self.retries + 1)
            if (share := oracle_share(means, retries)) is not None
        }
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)
        record = {
            "held_out": list(self.held_out),
            "solved": [
                {"arm": a.name, "family": a.family, "solved": a.solved.astype(int).tolist()}
                for a in arms
            ],
        }
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / RESULTS_FILE).write_text(json.dumps(record) + "\n", encoding="utf-8")
        for name, some, title in (
            ("retries", trained_on, "Success by retries, tasks never trained on"),
            ("retries_held_out", held_out, "Success by retries, a kind never trained on"),
        ):
            if some:
                figure = retry_curves(pooled(some), title=title, emphasised=TRAINED)
                save_figure(trainer, figure, name)


def oracle_share(means: Mapping[str, float], retries: int) -> float | None:
    """Share of the oracle's gain over plain retries that the trained reflector reaches.

    Args:
        means: ``success@k/<arm>``.
        retries: The number of retries.

    Returns:
        1 = as good as the oracle, 0 = no better than plain retry; None if the oracle gains nothing.
    """
    plain, trained, oracle = (
        means[f"success@{retries}/{arm}"] for arm in ("plain", TRAINED, "oracle")
    )
    return (trained - plain) / (oracle - plain) if oracle > plain else None


def pooled(arms: Sequence[Arm]) -> dict[str, list[tuple[float, float, float]]]:
    """Success with its Wilson interval after each number of retries, families together."""
    curves: dict[str, list[tuple[float, float, float]]] = {}
    for name in dict.fromkeys(arm.name for arm in arms):
        some = [arm.solved for arm in arms if arm.name == name]
        trials = sum(len(solved) for solved in some)
        counts = sum(solved.sum(axis=0) for solved in some)
        curves[name] = [
            (int(count) / max(1, trials), *wilson(int(count), trials)) for count in counts
        ]
    return curves


def closing_table(arms: Sequence[Arm], held_out: Sequence[str]) -> Table:
    """One row per arm and family group, one column per number of retries."""
    retries = arms[0].solved.shape[1]
    shown = Table(
        title="Share of test tasks solved after retries",
        caption="interval: 95 % Wilson interval of the last column, for this one checkpoint",
        padding=(0, 0),
    )
    shown.add_column("tasks", overflow="fold")
    shown.add_column("reflections", no_wrap=True)
    for number in range(retries):
        shown.add_column(f"@{number}", justify="right", no_wrap=True)
    shown.add_column("interval", no_wrap=True)
    for title, some in _groups(arms, held_out):
        for name, points in pooled(some).items():
            rates = [f"{rate:.2f}" for rate, _, _ in points]
            shown.add_row(title, name, *rates, f"{points[-1][1]:.2f} to {points[-1][2]:.2f}")
        shown.add_section()
    return shown


def _groups(arms: Sequence[Arm], held_out: Sequence[str]) -> Iterator[tuple[str, list[Arm]]]:
    families = dict.fromkeys(arm.family for arm in arms)
    trained_on = [arm for arm in arms if arm.family not in held_out]
    if trained_on:
        yield "trained kinds", trained_on
    for family in families:
        kept_out = " (kept out)" if family in held_out else ""
        yield f"{family}{kept_out}", [arm for arm in arms if arm.family == family]


def _before(run_dir: Path) -> Policy | None:
    path = run_dir / "checkpoints" / "phase-0-policy"
    return Policy.load(path).eval() if path.is_dir() else None


def _side_by_side(before: Measured, trained: Measured) -> dict[str, Any]:
    """Two reflections on one attempt; retries told a placebo or nothing are the same for both."""
    return {
        BEFORE: before.reflection,
        TRAINED: trained.reflection,
        f"lift, {BEFORE}": before.lift,
        f"lift, {TRAINED}": trained.lift,
        f"return told {BEFORE}": before.told,
        f"return told {TRAINED}": trained.told,
        "return told a placebo": trained.placebo,
        "return told nothing": trained.nothing,
    }
