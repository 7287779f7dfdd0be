"""Behaviour half: one trial: fits over its seeds, pruned on the way, told to Optuna and MLflow."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
import yaml
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from retro_lightning.config.errors import explain_run
from retro_lightning.sweep.board import best_of
from retro_lightning.sweep.fits import FitRecord, run_fit, value, words
from retro_lightning.sweep.leftovers import clear_checkpoints
from retro_lightning.sweep.overlay import overlay
from retro_lightning.sweep.settings import Sweep
from retro_lightning.sweep.slots import Slots
from retro_lightning.sweep.space import suggest
from retro_lightning.tracking.mlflow import MLflowRun
from retro_lightning.tracking.results import Point
from retro_lightning.tracking.study import StudyRuns

Phase = Literal["trial", "confirm"]

FITS = "fits"
"""User attribute of a trial: directory of each of its fits that came to an end."""

OBJECTIVE = "objective"


class _Lost(Exception):
    """Others took this trial for dead and repeat it."""


@dataclass(frozen=True)
class Job:
    """What a trial runs.

    Attributes:
        params: What was chosen for the keys of the space.
        seeds: Seeds to fit with.
        test: Try the test tasks too.
        prune: Ask the pruner after each round of validation.
    """

    params: Mapping[str, Any]
    seeds: Sequence[int]
    test: bool
    prune: bool


class TrialRunner:
    """Runs the trials of one phase of a study.

    Args:
        sweep: The sweep.
        slots: The phase's trials.
        runs: The study in MLflow; None if the job is not tracked there.
        phase: Name of the phase.
        job: What a trial runs, given the trial.
        shown: Called whenever there is something new to show.
    """

    def __init__(
        self,
        sweep: Sweep,
        slots: Slots,
        runs: StudyRuns | None,
        phase: Phase,
        job: Callable[[optuna.Trial], Job],
        shown: Callable[[], None],
    ) -> None:
        self._sweep, self._slots, self._runs, self._phase = sweep, slots, runs, phase
        self._job, self._shown = job, shown

    def directory(self, number: int) -> Path:
        """Where everything of a trial lands."""
        return self._sweep.directory / f"{self._phase}-{number:04}"

    def run(self, trial: optuna.Trial) -> None:
        """Run a trial to its end, whatever end that is.

        Raises:
            KeyboardInterrupt: If a person stopped it; its slot is free again.
        """
        self._shown()
        with self._slots.alive(trial) as lost:
            try:
                self._run(trial, lost)
            except (_Lost, UpdateFinishedTrialError):
                self._close(trial, "KILLED", "was taken for dead and is repeated")
            except optuna.TrialPruned as pruned:
                self._slots.prune(trial)
                self._close(trial, "FINISHED", f"stopped early: {pruned}")
            except KeyboardInterrupt:
                self._slots.give_up(trial.number, "stopped by Ctrl-C")
                self._close(trial, "KILLED", "stopped by Ctrl-C")
                raise
            except Exception as error:  # whatever a trial dies of, the study goes on
                reason = explain_run(error, self._args(trial))
                self._slots.fail(trial.number, reason)
                self._close(trial, "FAILED", reason)
            finally:
                self._clear()
        self._shown()

    def _run(self, trial: optuna.Trial, lost: threading.Event) -> None:
        job = self._job(trial)
        self._write_overlay(trial, job)
        trial_run = None
        if self._runs is not None:
            trial_run = self._runs.open_trial(trial.number, dict(job.params), self._phase)
        progress = _Progress(self._sweep.settings.metrics)
        fits: list[str] = []
        for number, seed in enumerate(job.seeds):
            directory = self.directory(trial.number) / f"seed-{seed}"

            def listen(point: Point, number: int = number) -> bool:
                progress.add(number, point)
                return lost.is_set() or self._report(trial, trial_run, progress, job)

            def prepare(logger: MLflowRun) -> None:
                if self._runs is not None and trial_run is not None:
                    self._runs.nest(logger, trial_run, trial.number, self._phase)

            args = [*self._args(trial), "--seed_everything", str(seed)]
            args += ["--final_test", str(job.test).lower()]
            record = run_fit(args, directory, listen=listen, prepare=prepare)
            if lost.is_set():
                raise _Lost
            if progress.pruned:
                if self._runs is not None and record.mlflow_run is not None:
                    self._runs.mark_pruned(record.mlflow_run)
                raise optuna.TrialPruned(progress.pruned)
            progress.end(number, record)
            fits.append(str(directory))
            trial.set_user_attr(FITS, list(fits))
        self._finish(trial, trial_run, progress)

    def _finish(self, trial: optuna.Trial, trial_run: str | None, progress: _Progress) -> None:
        values = progress.values()
        for metric, found in values.items():
            if not math.isfinite(found):
                raise FloatingPointError(f"{metric} is {found}")
        if self._runs is not None and trial_run is not None:
            self._runs.report(trial_run, values, progress.rounds)
        self._slots.finish(trial, list(values.values()))
        self._close(trial, "FINISHED")

    def _report(
        self, trial: optuna.Trial, trial_run: str | None, progress: _Progress, job: Job
    ) -> bool:
        """Tell what has been reached so far; answers whether the trial should stop."""
        values = progress.values()
        if self._runs is not None and trial_run is not None:
            self._runs.report(trial_run, values, progress.rounds)
        if len(values) > 1 or not job.prune:
            return False
        [(metric, found)] = values.items()
        trial.report(found, progress.rounds)
        self._shown()
        if trial.should_prune():
            progress.pruned = (
                f"{metric} was {found:.3f} after {progress.rounds} rounds of validation"
            )
            return True
        return False

    # ------------------------------------------------------------------ files and ends
    def _overlay(self, trial: optuna.Trial) -> Path:
        return self.directory(trial.number) / "trial.yaml"

    def _args(self, trial: optuna.Trial) -> list[str]:
        return words([*self._sweep.base_files, self._overlay(trial)])

    def _write_overlay(self, trial: optuna.Trial, job: Job) -> None:
        path = self._overlay(trial)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = overlay(self._sweep.settings.space, job.params, self._sweep.base_files)
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")

    def _clear(self) -> None:
        """Of what the phase has fitted so far keep only the policies that may yet win.

        The winner comes from the fits on fresh seeds, where there are any.
        """
        trials = self._slots.trials()
        may_win = {t.number for t in trials if t.state == TrialState.COMPLETE}
        if self._phase == "trial":
            metrics, confirmed = self._sweep.settings.metrics, self._sweep.settings.confirm.top
            best = None if confirmed else best_of(trials, metrics)
            may_win = set() if best is None else {best.number}
        for t in trials:
            if t.state.is_finished():
                clear_checkpoints(self.directory(t.number), policies=t.number not in may_win)

    def _close(
        self, trial: optuna.Trial, status: Literal["FINISHED", "FAILED", "KILLED"], note: str = ""
    ) -> None:
        if self._runs is not None:
            self._runs.close_trial(trial.number, self._phase, status, note)


def search_job(sweep: Sweep, trial: optuna.Trial) -> Job:
    """A trial of the search: what the sampler chooses, on the sweep's seeds."""
    settings = sweep.settings
    return Job(
        params=suggest(trial, settings.space),
        seeds=settings.seeds,
        test=False,
        prune=len(settings.metrics) == 1,
    )


class _Progress:
    """What a trial has reached: for each metric the mean over the seeds begun.

    Args:
        metrics: Metric → direction.
    """

    def __init__(self, metrics: Mapping[str, Any]) -> None:
        self._metrics = metrics
        self._curves: dict[int, list[Point]] = {}
        self.rounds = 0
        self.pruned = ""

    def add(self, seed: int, point: Point) -> None:
        """A round of validation of a seed, counted from 0."""
        self._curves.setdefault(seed, []).append(point)
        self.rounds += 1

    def end(self, seed: int, record: FitRecord) -> None:
        """A seed's fit has come to its end."""
        self._curves[seed] = list(record.curve)

    def values(self) -> dict[str, float]:
        """Metric → mean over the seeds begun of what ``fits.value`` says of each."""
        return {
            metric: math.fsum(value(curve, metric, direction) for curve in self._curves.values())
            / len(self._curves)
            for metric, direction in self._metrics.items()
        }
