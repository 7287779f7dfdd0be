"""Behaviour half: one fit of a study, run as ``fit`` would run it, with its words in a file."""

from __future__ import annotations

import contextlib
import gc
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from retro_lightning.config import command
from retro_lightning.config.command import Command
from retro_lightning.config.errors import ConfigError, explain_run
from retro_lightning.config.locate import nearest
from retro_lightning.sweep.overlay import overlay
from retro_lightning.sweep.settings import Direction, Sweep
from retro_lightning.sweep.space import packed, probes
from retro_lightning.tracking.mlflow import MLflowRun
from retro_lightning.tracking.results import Point, RunResults
from retro_lightning.tracking.study import check_server

_ROLLOUT_METRICS = tuple(f"rollout/{name}" for name in ("success_rate", "return", "length"))
_PLACE = re.compile(r"^[^:]*, line \d+: (?:[\w.]+: )?")
"""Where an error stands in the job's files; it was the sweep file that brought it about."""

Listen = Callable[[Point], bool]
"""Is told of each round of validation; answers whether the fit should stop."""


class Terminated(KeyboardInterrupt):
    """A fit was stopped by SIGTERM: to the study, all that Ctrl-C is; only the word differs."""


@dataclass(frozen=True)
class FitRecord:
    """What came of a fit.

    Attributes:
        curve: One point for each round of validation.
        mlflow_run: Id of its MLflow run; None if it has none.
    """

    curve: tuple[Point, ...]
    mlflow_run: str | None


def words(files: Sequence[str | Path]) -> list[str]:
    """Configuration files as a command line names them."""
    return [word for file in files for word in ("--config", str(file))]


def run_fit(
    args: Sequence[str],
    directory: Path,
    *,
    listen: Listen | None = None,
    prepare: Callable[[MLflowRun], None] | None = None,
) -> FitRecord:
    """Run one fit in this process.

    Args:
        args: The command line after ``fit``.
        directory: Everything of the fit lands there; what it prints, in ``fit.log``.
        listen: Is told of each round of validation.
        prepare: Is given the fit's MLflow logger before anything is logged.

    Raises:
        KeyboardInterrupt: If a person has stopped it.
        Terminated: If SIGTERM has, as schedulers send it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with _words_into(directory / "fit.log"):
        cli = command.build("fit", [*args, "--trainer.default_root_dir", str(directory)])
        results = _results(cli)
        if listen is not None:
            results.listeners.append(_stopper(cli, listen))
        loggers = mlflow_loggers(cli)
        if prepare is not None:
            for logger in loggers:
                prepare(logger)
        try:
            cli.run()
        except SystemExit as stop:  # so Lightning ends after Ctrl-C and SIGTERM
            raise (Terminated if cli.trainer.received_sigterm else KeyboardInterrupt) from stop
        record = FitRecord(tuple(results.curve), loggers[0].version if loggers else None)
    del cli
    gc.collect()
    return record


def mlflow_loggers(cli: Command) -> list[MLflowRun]:
    """The MLflow loggers of a job."""
    loggers: list[Any] = cli.trainer.loggers if cli.trainer is not None else []
    return [logger for logger in loggers if isinstance(logger, MLflowRun)]


def _results(cli: Command) -> RunResults:
    """The job's callback that keeps results, added where the job has none."""
    callbacks: list[Any] = cli.trainer.callbacks  # type: ignore[attr-defined]
    found = [callback for callback in callbacks if isinstance(callback, RunResults)]
    if not found:
        found = [RunResults()]
        callbacks.append(found[0])
    return found[0]


def _stopper(cli: Command, listen: Listen) -> Callable[[Point], None]:
    def tell(point: Point) -> None:
        if listen(point):
            cli.trainer.should_stop = True

    return tell


@contextlib.contextmanager
def _words_into(path: Path) -> Iterator[None]:
    with (
        path.open("a", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        yield


# ---------------------------------------------------------------------- values
def value(curve: Sequence[Point], metric: str, direction: Direction) -> float:
    """What a fit has reached by a metric.

    Of a validation metric the best round, whose checkpoint is kept; of any other the last.

    Raises:
        ValueError: If the fit has not logged it.
    """
    values = [point.metrics[metric] for point in curve if metric in point.metrics]
    if not values:
        raise ValueError(f"the fit logged no {metric}")
    if not metric.startswith("val/"):
        return values[-1]
    return max(values) if direction == "maximize" else min(values)


# ---------------------------------------------------------------------- before the first trial
def check_base(sweep: Sweep) -> Command:
    """The job itself, made; complains about it as ``fit`` would."""
    args = words(sweep.base_files)
    cli = _made(args)
    loggers = mlflow_loggers(cli)
    if loggers:
        check_server(loggers[0].tracking_uri)
    return cli


def check_space_keys(sweep: Sweep) -> None:
    """Make the job with every choice and both ends of every range.

    Many keys are tried at once; only where that fails they are tried one by one, to name the key.

    Raises:
        ConfigError: If that can't be; names the key and where it stands in the sweep file.
    """
    for together in packed(probes(sweep.settings.space)):
        params = {name: value for _, each in together for name, value in each.items()}
        try:
            _make_with(sweep, params)
        except (ValueError, OSError, TypeError) as error:
            for key, each in together:
                _name_culprit(sweep, key, each)
            raise ConfigError(f"{sweep.file}: space: {_told(error)}") from error


def _name_culprit(sweep: Sweep, key: str, params: Mapping[str, Any]) -> None:
    try:
        _make_with(sweep, params)
    except (ValueError, OSError, TypeError) as error:
        reason = _told(error)
        reason = reason if reason.startswith(key) else f"{key}: {reason}"
        raise ConfigError(f"{sweep.place(key) or sweep.file}: {reason}") from error


def _make_with(sweep: Sweep, params: Mapping[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "probe.yaml"
        content = overlay(sweep.settings.space, params, sweep.base_files)
        file.write_text(yaml.safe_dump(content))
        _made([*words(sweep.base_files), *words([file]), "--trainer.logger", "false"])


def _told(error: Exception) -> str:
    return _PLACE.sub("", str(error))


def rehearse(sweep: Sweep, default_file: Path) -> None:
    """One gradient step and one round of validation of the first trial's job.

    Raises:
        ConfigError: If a metric of the study is not logged.
    """
    sweep.directory.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="checks-", dir=sweep.directory))
    args = [*words([*sweep.base_files, default_file]), "--trainer.logger", "false"]
    args += ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"]
    args += ["--trainer.check_val_every_n_epoch", "1", "--final_test", "false"]
    try:
        record = run_fit(args, directory)
    except (ValueError, OSError, RuntimeError, ArithmeticError) as error:
        raise ConfigError(f"{sweep.file}: the job fails: {explain_run(error, args)}") from error
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    known = {*_ROLLOUT_METRICS, *(name for point in record.curve for name in point.metrics)}
    for metric in sweep.settings.metrics:
        if metric not in known:
            hint = nearest(metric, known)
            suggestion = f"did you mean {hint}?" if hint else f"it logs {', '.join(sorted(known))}"
            raise ConfigError(f"{sweep.file}: metrics: the job never logs {metric}; {suggestion}")


def _made(args: Sequence[str]) -> Command:
    try:
        return command.build("fit", args)
    except ConfigError:
        raise
    except (ValueError, OSError, TypeError, KeyError) as error:
        raise ConfigError(explain_run(error, args)) from error
