"""Behaviour half: a study in MLflow: one run for it, in that one per trial, in that one per fit."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from matplotlib.figure import Figure

from retro_lightning.tracking.client import open_client
from retro_lightning.tracking.mlflow import PRUNED, MLflowRun, create_run
from retro_lightning.tracking.parameters import flatten

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

Status = Literal["FINISHED", "FAILED", "KILLED"]

_PARENT = "mlflow.parentRunId"
_STUDY, _TRIAL = "retro_lightning.study", "retro_lightning.trial"
_MAX_TEXT = 500


class StudyRuns:
    """Writes a study's runs; any number of workers may have one each.

    Args:
        tracking_uri: Database or server that is written to.
        experiment: Experiment of the study.
        study: Name of the study.
        run_id: The study's run, if it exists already.
    """

    def __init__(
        self, tracking_uri: str, experiment: str, study: str, run_id: str | None = None
    ) -> None:
        self.client: MlflowClient = open_client(tracking_uri)
        self.tracking_uri, self.experiment, self.study = tracking_uri, experiment, study
        self.run_id = run_id or create_run(self.client, experiment, study, {_STUDY: study})
        self._set_status(self.run_id, "RUNNING")

    # ------------------------------------------------------------------ the study
    def describe(self, sweep_file: Path, parameters: Mapping[str, Any]) -> None:
        """Log the sweep file and what it says, once."""
        self.client.log_artifact(self.run_id, str(sweep_file))
        self._log_parameters(self.run_id, parameters)

    def log_figure(self, figure: Figure, name: str) -> None:
        """Log a figure of the study."""
        self.client.log_figure(self.run_id, figure, f"figures/{name}.png")

    def log_file(self, path: Path) -> None:
        """Log a file of the study."""
        self.client.log_artifact(self.run_id, str(path))

    def log_best(self, values: Mapping[str, float], trial: int) -> None:
        """Log the best values so far, at the number of the trial that has just ended."""
        for name, value in values.items():
            self.client.log_metric(self.run_id, f"best/{name}", value, step=trial)

    def close(self, status: Status, ended: Mapping[str, Collection[int]] | None = None) -> None:
        """End the study's run, and all below it that a killed worker left open.

        Args:
            status: How the study ends.
            ended: Phase → numbers of its trials that came to their end: a worker may be killed
                after it has told the study so and before it has told MLflow.
        """
        whole = {_trial(n, phase) for phase, numbers in (ended or {}).items() for n in numbers}
        for run in self._search(f"tags.`{_STUDY}` = '{self.run_id}'"):
            if run.info.status == "RUNNING":
                finished = run.data.tags.get(_TRIAL) in whole
                self._set_status(run.info.run_id, "FINISHED" if finished else "KILLED")
        self._set_status(self.run_id, status)

    # ------------------------------------------------------------------ trials
    def open_trial(self, number: int, parameters: Mapping[str, Any], phase: str) -> str:
        """Begin a trial's run; returns its id.

        Args:
            number: Number of the trial.
            parameters: What was chosen for it.
            phase: ``trial`` or ``confirm``.
        """
        tags = {**self._tags(number, phase), _PARENT: self.run_id}
        name = f"{phase}-{number:04}"
        run_id = create_run(self.client, self.experiment, name, tags)
        self._log_parameters(run_id, parameters)
        return run_id

    def nest(self, logger: MLflowRun, trial_run: str, number: int, phase: str) -> None:
        """Make a fit's run part of a trial's."""
        logger.nest(self.experiment, {**self._tags(number, phase), _PARENT: trial_run})

    def report(self, trial_run: str, metrics: Mapping[str, float], step: int) -> None:
        """Log what a trial has reached so far."""
        for name, value in metrics.items():
            self.client.log_metric(trial_run, name, value, step=step)

    def mark_pruned(self, run_id: str) -> None:
        """Keep a fit that was stopped early out of comparisons."""
        self.client.set_tag(run_id, PRUNED, "true")

    def close_trial(self, number: int, phase: str, status: Status, note: str = "") -> None:
        """End a trial's run and its fits' runs that are still open, with a note why."""
        query = f"tags.`{_STUDY}` = '{self.run_id}' and tags.`{_TRIAL}` = '{_trial(number, phase)}'"
        for run in self._search(query):
            if run.info.status == "RUNNING":
                self._set_status(run.info.run_id, status)
                if note:
                    self.client.set_tag(run.info.run_id, "mlflow.note.content", note)

    # ------------------------------------------------------------------ the winner
    def register(self, policy: Path, run_id: str, name: str, alias: str) -> str:
        """Put a policy directory into the model registry under an alias; returns its version."""
        from mlflow.exceptions import MlflowException

        self.client.log_artifacts(run_id, str(policy), "policy")
        try:
            self.client.create_registered_model(name)
        except MlflowException:  # it has earlier versions
            self.client.get_registered_model(name)
        source = f"{self.client.get_run(run_id).info.artifact_uri}/policy"
        version = str(self.client.create_model_version(name, source, run_id).version)
        self.client.set_registered_model_alias(name, alias, version)
        return version

    # ------------------------------------------------------------------ within
    def _tags(self, number: int, phase: str) -> dict[str, str]:
        return {_STUDY: self.run_id, _TRIAL: _trial(number, phase)}

    def _log_parameters(self, run_id: str, parameters: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        known = self.client.get_run(run_id).data.params
        new = {k: v for k, v in flatten(parameters).items() if k not in known}
        params = [Param(key, str(value)[:_MAX_TEXT]) for key, value in new.items()]
        self.client.log_batch(run_id, params=params)

    def _set_status(self, run_id: str, status: str) -> None:
        if status == "RUNNING":
            self.client.update_run(run_id, status=status)
        else:
            self.client.set_terminated(run_id, status)

    def _search(self, query: str) -> list[Run]:
        experiment = self.client.get_experiment_by_name(self.experiment)
        assert experiment is not None
        found, token = [], None
        while True:
            page = self.client.search_runs(
                [experiment.experiment_id], query, max_results=1000, page_token=token
            )
            found += list(page)
            token = page.token
            if not token:
                return found


def check_server(tracking_uri: str) -> None:
    """Ask the database or server for something small, without the usual minutes of patience.

    Raises:
        OSError: If it does not answer.
    """
    from mlflow.exceptions import MlflowException

    patience = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
    before = {name: os.environ.get(name) for name in patience}
    os.environ.update(patience)
    try:
        open_client(tracking_uri).search_experiments(max_results=1)
    except (MlflowException, OSError, ValueError) as error:
        raise OSError(
            f"the tracking server {_without_password(tracking_uri)} can't be reached; start it, or "
            "name another by MLFLOW_TRACKING_URI"
        ) from error
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _trial(number: int, phase: str) -> str:
    return f"{phase}-{number}"


def _without_password(uri: str) -> str:
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
