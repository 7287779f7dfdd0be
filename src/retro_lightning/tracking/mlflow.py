"""Behaviour half: a Lightning logger that writes to MLflow in batches and knows about resuming.

One write to MLflow's SQLite store takes about 10 ms, as long as a training step of a small model;
metrics are therefore kept in memory and written a few hundred at a time.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from retro_lightning.tracking.client import open_client
from retro_lightning.tracking.parameters import flatten
from retro_lightning.tracking.provenance import StoreDescription, code_version, package_versions
from retro_lightning.tracking.uninterrupted import uninterrupted

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

# Read when MLflow is imported, which this module does as late as it can: no telemetry, no progress
# bars within ours, no report on database migrations.
for _name, _value in (
    ("MLFLOW_DISABLE_TELEMETRY", "true"),
    ("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false"),
    ("MLFLOW_LOGGING_LEVEL", "WARNING"),
):
    os.environ.setdefault(_name, _value)

PRUNED = "retro_lightning.pruned"
"""Tag of a fit that a study stopped early."""

_DEFAULT_URI = "sqlite:///mlflow.db"
_RUN_FILE = "mlflow-run.json"
_MAX_METRICS_PER_WRITE = 1000
_MAX_PARAMETERS_PER_WRITE = 100
_MAX_PARAMETER_LENGTH = 500
_FORBIDDEN = re.compile(r"[^\w/. :-]")  # what MLflow refuses in names, @ for one


class MLflowRun(Logger):
    """Logs a run to MLflow.

    The run is made when the first thing is logged. A resumed ``fit`` goes on in the run that it
    resumes, whose id stands in ``mlflow-run.json`` of the run's directory. After Ctrl-C the run is
    closed as KILLED, after an error as FAILED.

    Args:
        experiment_name: Experiment that the run belongs to.
        tracking_uri: Database or server that MLflow writes to; null = the environment variable
            ``MLFLOW_TRACKING_URI``, or ``sqlite:///mlflow.db`` in the working directory.
        run_id: Go on in this MLflow run instead of making one.
        flush_seconds: Seconds after which metrics in memory are written. Higher = less time spent
            writing; lower = the user interface is closer to the present.
    """

    def __init__(
        self,
        experiment_name: str = "retro_lightning",
        tracking_uri: str | None = None,
        run_id: str | None = None,
        flush_seconds: float = 10.0,
    ) -> None:
        super().__init__()
        self._experiment_name = experiment_name
        self._tracking_uri = absolute_uri(tracking_uri) if tracking_uri else default_uri()
        self._run_id = run_id
        self._flush_seconds = flush_seconds
        self._run_name: str | None = None
        self._run_file: Path | None = None
        self._client: MlflowClient | None = None
        self._waiting: list[Metric] = []
        self._flushed_at = time.monotonic()
        self._parameters: set[str] = set()
        self._tags: dict[str, str] = {}

    def attach(self, directory: Path, *, name: str, remember: bool, resume: bool) -> None:
        """Tie the logger to a run's directory, before anything is logged.

        Args:
            directory: Directory of the run.
            name: Name that MLflow shows.
            remember: Write the MLflow run's id into the directory, for a later resumption.
            resume: Go on in the MLflow run that the directory remembers, if it still exists.
        """
        self._run_name = name
        file = directory / _RUN_FILE
        self._run_file = file if remember else None
        if resume and file.is_file() and self._run_id is None:
            record = json.loads(file.read_text(encoding="utf-8"))
            if record["tracking_uri"] == self._tracking_uri:
                self._run_id = record["run_id"]

    def nest(self, experiment_name: str, tags: Mapping[str, str]) -> None:
        """Make the run part of a study, before anything is logged.

        Args:
            experiment_name: Experiment of the study.
            tags: Tags of the run, among them ``mlflow.parentRunId``.
        """
        self._experiment_name, self._tags = experiment_name, dict(tags)

    # ------------------------------------------------------------------ the MLflow run
    @property
    def tracking_uri(self) -> str:
        """Database or server that is written to."""
        return self._tracking_uri

    @property
    def name(self) -> str:
        """Name of the experiment."""
        return self._experiment_name

    @property
    def version(self) -> str | None:
        """Id of the MLflow run; None before anything was logged."""
        return self._run_id

    @property
    @rank_zero_experiment
    def client(self) -> MlflowClient:
        """MLflow's client, once the run exists."""
        if self._client is None:
            self._client = self._open()
        return self._client

    @uninterrupted()
    def _open(self) -> MlflowClient:
        from mlflow.entities import RunStatus
        from mlflow.exceptions import MlflowException

        client = open_client(self._tracking_uri)
        if self._run_id is not None:
            try:
                run = client.get_run(self._run_id)
            except MlflowException:
                self._run_id = None
            else:
                self._parameters = set(run.data.params)
                client.update_run(self._run_id, status=RunStatus.to_string(RunStatus.RUNNING))
        if self._run_id is None:
            self._run_id = create_run(client, self._experiment_name, self._run_name, self._tags)
        if self._run_file is not None:
            self._run_file.parent.mkdir(parents=True, exist_ok=True)
            record = {"run_id": self._run_id, "tracking_uri": self._tracking_uri}
            self._run_file.write_text(json.dumps(record) + "\n", encoding="utf-8")
        return client

    # ------------------------------------------------------------------ metrics and parameters
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Keep metrics; they are written later, many at once."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [
            Metric(_FORBIDDEN.sub("_", key), float(value), now, step or 0)
            for key, value in metrics.items()
        ]
        waited = time.monotonic() - self._flushed_at
        if len(self._waiting) >= _MAX_METRICS_PER_WRITE or waited >= self._flush_seconds:
            self.save()

    @rank_zero_only
    @uninterrupted()
    def save(self) -> None:
        """Write the metrics that are in memory."""
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), _MAX_METRICS_PER_WRITE):
            chunk = waiting[start : start + _MAX_METRICS_PER_WRITE]
            self.client.log_batch(self.version, metrics=chunk)
        self._flushed_at = time.monotonic()

    @rank_zero_only
    @uninterrupted()
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any
    ) -> None:
        """Log parameters, flattened to dotted keys; each key once in the life of a run."""
        from mlflow.entities import Param

        client = self.client
        values = vars(params) if isinstance(params, Namespace) else params
        new = {k: v for k, v in flatten(values).items() if k not in self._parameters}
        self._parameters |= set(new)
        entities = [
            Param(_FORBIDDEN.sub("_", key), str(value)[:_MAX_PARAMETER_LENGTH])
            for key, value in new.items()
        ]
        for start in range(0, len(entities), _MAX_PARAMETERS_PER_WRITE):
            chunk = entities[start : start + _MAX_PARAMETERS_PER_WRITE]
            client.log_batch(self.version, params=chunk)

    # ------------------------------------------------------------------ artifacts
    @rank_zero_only
    @uninterrupted()
    def log_config(self, text: str) -> None:
        """Log a configuration: as the artifact ``config.yaml`` and as parameters."""
        self.client.log_text(self.version, text, "config.yaml")
        self.log_hyperparams(yaml.safe_load(text))

    @rank_zero_only
    @uninterrupted()
    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Log a file as the artifact ``<folder>/<name of the file>``, or at the top."""
        self.client.log_artifact(self.version, str(path), folder)

    @rank_zero_only
    @uninterrupted()
    def log_rows(self, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        """Append rows, which have the same keys, to the table artifact ``name``."""
        if rows:
            columns = {key: [row[key] for row in rows] for key in rows[0]}
            self.client.log_table(self.version, columns, name)

    @rank_zero_only
    @uninterrupted()
    def log_dataset(self, store: StoreDescription) -> None:
        """Log a replay store as a dataset input of the run: name, hash, size."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        size = {"trajectories": store.trajectories, "steps": store.steps}
        dataset = Dataset(
            name=store.name,
            digest=store.digest,
            source_type="local",
            source=json.dumps({"uri": store.path}),
            profile=json.dumps(size),
        )
        inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])]
        self.client.log_inputs(self.version, datasets=inputs)

    # ------------------------------------------------------------------ the end
    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        """Write what is left and close the run; KILLED when a person or a signal stopped it."""
        if self._client is None and not self._waiting:
            return
        self.save()
        ended = "FINISHED" if status in ("success", "finished") else "FAILED"
        if isinstance(sys.exception(), KeyboardInterrupt | SystemExit):
            ended = "KILLED"
        self.client.set_terminated(self.version, ended)


def create_run(
    client: MlflowClient, experiment: str, name: str | None, tags: Mapping[str, str]
) -> str:
    """Make a run, and its experiment if it is the first; returns the run's id.

    The run carries the versions of code and packages it is made by.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(experiment)
    try:
        experiment_id = found.experiment_id if found else client.create_experiment(experiment)
    except MlflowException:  # another process was faster
        found = client.get_experiment_by_name(experiment)
        if found is None:
            raise
        experiment_id = found.experiment_id
    version, commit = code_version()
    tags = {"retro_lightning.version": version, **tags}
    if commit is not None:
        tags["mlflow.source.git.commit"] = commit
    run_id: str = client.create_run(experiment_id, run_name=name, tags=tags).info.run_id
    client.log_dict(run_id, package_versions(), "packages.json")
    return run_id


def default_uri() -> str:
    """Where runs are tracked unless a configuration says otherwise."""
    return absolute_uri(os.environ.get("MLFLOW_TRACKING_URI") or _DEFAULT_URI)


def absolute_uri(uri: str) -> str:
    """The address of a SQLite file, independent of the working directory; others as they are."""
    scheme, separator, path = uri.partition(":///")
    if scheme != "sqlite" or not separator or Path(path).is_absolute():
        return uri
    return f"sqlite:///{Path(path).absolute()}"
