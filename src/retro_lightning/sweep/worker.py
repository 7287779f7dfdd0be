"""Behaviour half: a worker: runs trials of a study until there are none left, then ranks them."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import TrialState
from rich.console import Console

from retro_lightning.config.errors import ConfigError
from retro_lightning.sweep.board import Board
from retro_lightning.sweep.confirm import confirm_definition, confirm_job, report
from retro_lightning.sweep.fits import check_base, check_space_keys, mlflow_loggers, rehearse
from retro_lightning.sweep.overlay import overlay
from retro_lightning.sweep.settings import Sweep
from retro_lightning.sweep.slots import Slots
from retro_lightning.sweep.space import defaults
from retro_lightning.sweep.storage import Lock, open_storage, open_study
from retro_lightning.sweep.trial import Phase, TrialRunner, search_job
from retro_lightning.tracking.study import StudyRuns

_POLL_SECONDS = 1.0
_MLFLOW = "mlflow_run"
_REPORTED = "reported"


def run(sweep: Sweep, console: Console) -> None:
    """Take part in a study until it is done.

    Raises:
        ConfigError: Before the first trial, if something is wrong with the sweep.
        KeyboardInterrupt: If a person stopped this worker.
    """
    storage, lock = open_storage(sweep)
    first = _begin(sweep, storage, console)
    definition = sweep.definition()
    study = open_study(sweep, storage, lock, definition=definition, first=first)
    _configure(study, sweep, fresh=first is not None)
    runs = _study_runs(sweep, study, lock)
    gc.freeze()  # the garbage collection after each fit need not look at all that is imported
    try:
        _phase(sweep, study, lock, runs, "trial", sweep.settings.trials, console)
        if sweep.once and not _slots(sweep, study, lock, runs, "trial").done():
            return
        _confirm_and_report(sweep, storage, lock, study, runs, console)
    except KeyboardInterrupt:
        if runs is not None and not _slots(sweep, study, lock, runs, "trial").running():
            runs.close("KILLED")
        raise
    finally:
        gc.unfreeze()


def _begin(
    sweep: Sweep, storage: optuna.storages.BaseStorage, console: Console
) -> dict[str, Any] | None:
    """Check a study that is not there yet; returns the first trial's parameters.

    A study that exists was checked when it began, and goes on only if nothing has changed.
    """
    if sweep.settings.study in optuna.get_all_study_names(storage):
        return None
    console.print("checking the job and the space", highlight=False)
    cli = check_base(sweep)
    check_space_keys(sweep)
    config = yaml.safe_load(cli.parser.dump(cli.config, skip_validation=True))
    try:
        first = defaults(sweep.settings.space, config)
    except ValueError as error:
        key = str(error).partition(":")[0]
        raise ConfigError(f"{sweep.place(key) or sweep.file}: {error}") from error
    file = sweep.directory / "default.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(overlay(sweep.settings.space, first, sweep.base_files)))
    rehearse(sweep, file)
    return first


def _configure(study: optuna.Study, sweep: Sweep, *, fresh: bool) -> None:
    """Give the study its sampler and pruner.

    A seeded sampler would propose its first points again in every worker and at every resumption:
    only the worker that began the study keeps the seed.
    """
    settings = sweep.settings
    study.sampler = settings.sampler or optuna.samplers.TPESampler(
        seed=1, multivariate=True, group=True
    )
    if not fresh:
        study.sampler.reseed_rng()
    study.pruner = settings.pruner or optuna.pruners.MedianPruner(n_startup_trials=5)


def _study_runs(sweep: Sweep, study: optuna.Study, lock: Lock) -> StudyRuns | None:
    """The study in MLflow, where its job is tracked there."""
    loggers = mlflow_loggers(check_base(sweep))
    if not loggers:
        return None
    uri = loggers[0].tracking_uri
    name = sweep.settings.study
    experiment = sweep.settings.experiment or name
    with lock():
        run_id = study.user_attrs.get(_MLFLOW)
        runs = StudyRuns(uri, experiment, name, run_id)
        if run_id is None:
            study.set_user_attr(_MLFLOW, runs.run_id)
            runs.describe(Path(sweep.file), sweep.definition())
    return runs


def _slots(
    sweep: Sweep,
    study: optuna.Study,
    lock: Lock,
    runs: StudyRuns | None,
    phase: Phase,
    count: int | None = None,
) -> Slots:
    settings = sweep.settings

    def buried(number: int) -> None:
        if runs is not None:
            runs.close_trial(number, phase, "KILLED", "its worker was killed")

    return Slots(
        study,
        lock,
        count=settings.trials if count is None else count,
        retries=settings.retries,
        heartbeat_seconds=settings.heartbeat_seconds,
        on_buried=buried,
    )


# ---------------------------------------------------------------------- running
def _phase(
    sweep: Sweep,
    study: optuna.Study,
    lock: Lock,
    runs: StudyRuns | None,
    phase: Phase,
    count: int,
    console: Console,
    candidates: Mapping[str, Any] | None = None,
) -> None:
    """Run trials until every slot of the phase is done, by whomever."""
    slots = _slots(sweep, study, lock, runs, phase, count)
    title = sweep.settings.study if phase == "trial" else f"{sweep.settings.study}: fresh seeds"
    with Board(slots, title, sweep.settings.metrics, console) as board:

        def job(trial: optuna.Trial) -> Any:
            if phase == "trial":
                return search_job(sweep, trial)
            assert candidates is not None
            return confirm_job(candidates, slots.slot(trial.number))

        runner = TrialRunner(sweep, slots, runs, phase, job, board.update)
        while not slots.done():
            if sweep.settings.execution == "subprocess" and not sweep.once:
                ran = _run_apart(sweep, slots)
            elif ran := (trial := slots.claim()) is not None:
                runner.run(trial)
            board.update()
            if sweep.once:
                return
            if not ran:
                time.sleep(_POLL_SECONDS)


def _run_apart(sweep: Sweep, slots: Slots) -> bool:
    """Run one trial in a process of its own; returns whether there was one to run.

    Raises:
        OSError: If the process came to no trial: the next ones would not either.
    """
    if not slots.wanted():
        return False
    log = sweep.directory / "workers.log"
    command = [sys.executable, "-m", "retro_lightning", "sweep", *sweep.words, "--once", "true"]
    with log.open("ab") as output:
        child = subprocess.Popen(command, stdout=output, stderr=output, env=dict(os.environ))
        try:
            code = child.wait()
        except KeyboardInterrupt:
            child.wait()
            raise
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    begun = slots.of_worker(child.pid)
    if code and not begun:
        raise OSError(f"a worker process ended with {how} before it began a trial; see {log}")
    for trial in begun:
        if trial.state == TrialState.RUNNING:
            slots.fail(trial.number, f"its process ended with {how} (out of memory?); see {log}")
    return True


def _confirm_and_report(
    sweep: Sweep,
    storage: optuna.storages.BaseStorage,
    lock: Lock,
    study: optuna.Study,
    runs: StudyRuns | None,
    console: Console,
) -> None:
    candidates = confirm_definition(sweep, _slots(sweep, study, lock, runs, "trial"))
    confirmed = None
    count = len(candidates["params"]) * len(candidates["seeds"])
    if sweep.settings.confirm.top and count:
        suffix = f"/confirmation after {sweep.settings.trials}"
        fresh = open_study(sweep, storage, lock, suffix=suffix, definition=candidates)
        _phase(sweep, fresh, lock, runs, "confirm", count, console, candidates)
        confirmed = _slots(sweep, fresh, lock, runs, "confirm", count)
        if not confirmed.done():
            return
    with lock():
        slots = _slots(sweep, study, lock, runs, "trial")
        if study.user_attrs.get(_REPORTED) != count + sweep.settings.trials:
            report(sweep, slots, confirmed, candidates, runs, console)
            study.set_user_attr(_REPORTED, count + sweep.settings.trials)
        else:
            console.print(f"the study is done: see {sweep.directory}", highlight=False)
        if runs is not None:
            again = [] if confirmed is None else confirmed.ended()
            runs.close("FINISHED", {"trial": slots.ended(), "confirm": again})
