"""Behaviour half: reads what runs have kept, from their directories or from MLflow."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from retro_lightning.evaluation.comparison import Run
from retro_lightning.tracking.client import open_client
from retro_lightning.tracking.mlflow import PRUNED
from retro_lightning.tracking.results import RESULTS_FILE

Split = Literal["val", "test"]


@dataclass(frozen=True)
class RunRecord:
    """A run as it was kept.

    Attributes:
        name: How a person finds it again: its directory, or its MLflow run's name and id.
        config: Its merged configuration.
        results: What ``results.json`` says.
    """

    name: str
    config: Mapping[str, Any]
    results: Mapping[str, Any]

    @property
    def seed(self) -> int:
        """The run's seed.

        Raises:
            ValueError: If it is known neither from its configuration nor from its results.
        """
        for found in (self.config.get("seed_everything"), self.results.get("seed")):
            if isinstance(found, int) and not isinstance(found, bool):
                return found
        raise ValueError(f"{self.name} has no seed: set seed_everything in its configuration")

    def run(self, split: Split, metric: str = "val/success_rate") -> Run:
        """What a comparison looks at.

        Args:
            split: Outcomes on which tasks.
            metric: Metric of the curve.

        Raises:
            ValueError: If the run has no outcomes on that split.
        """
        if not self.results.get(split):
            other = "val" if split == "test" else "test"
            raise ValueError(
                f"{self.name} has no outcomes on {split} tasks: let fit make its final test, or "
                f"compare with --split {other}"
            )
        curve = tuple(
            (int(p["step"]), int(p["environment_steps"]), float(p["metrics"][metric]))
            for p in self.results.get("curve", [])
            if p["metrics"].get(metric) is not None
        )
        return Run(self.name, self.seed, self.results[split], curve)


def read_directory(path: Path) -> RunRecord:
    """A run's directory.

    Raises:
        FileNotFoundError: If it has kept no results.
    """
    results, config = path / RESULTS_FILE, path / "config.yaml"
    for file in (results, config):
        if not file.is_file():
            raise FileNotFoundError(
                f"there is no {file}: give the directory of a run, such as runs/multitask, whose "
                "fit has the callback retro_lightning.tracking.results.RunResults"
            )
    return RunRecord(
        str(path),
        yaml.safe_load(config.read_text(encoding="utf-8")),
        json.loads(results.read_text(encoding="utf-8")),
    )


def read_mlflow_run(tracking_uri: str, run_id: str) -> RunRecord:
    """A run in MLflow, by its id.

    Raises:
        ValueError: If there is none, or it has kept no results.
    """
    from mlflow.exceptions import MlflowException

    client = open_client(tracking_uri)
    try:
        name = client.get_run(run_id).info.run_name
    except MlflowException as error:
        raise ValueError(
            f"{run_id} is neither a run's directory nor the id of an MLflow run in {tracking_uri}"
        ) from error
    with tempfile.TemporaryDirectory() as place:
        try:
            results, config = (
                Path(client.download_artifacts(run_id, file, place)).read_text(encoding="utf-8")
                for file in (RESULTS_FILE, "config.yaml")
            )
        except (MlflowException, OSError) as error:
            raise ValueError(
                f"the MLflow run {run_id} has no {RESULTS_FILE} and config.yaml: its fit needs the "
                "callback retro_lightning.tracking.results.RunResults"
            ) from error
    return RunRecord(f"{name} ({run_id[:8]})", yaml.safe_load(config), json.loads(results))


def runs_of_experiment(tracking_uri: str, experiment: str) -> list[str]:
    """Ids of an experiment's runs that came to their end and have kept results, oldest first.

    Raises:
        ValueError: If there is no such experiment, or no such run in it.
    """
    client = open_client(tracking_uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        known = ", ".join(sorted(e.name for e in client.search_experiments()))
        raise ValueError(f"there is no experiment {experiment!r} in {tracking_uri}; it has {known}")
    runs = client.search_runs(
        [found.experiment_id], "attributes.status = 'FINISHED'", max_results=5000
    )
    kept = [
        run.info.run_id
        for run in reversed(list(runs))
        if PRUNED not in run.data.tags
        and any(a.path == RESULTS_FILE for a in client.list_artifacts(run.info.run_id))
    ]
    if not kept:
        raise ValueError(f"no finished run of experiment {experiment!r} has a {RESULTS_FILE}")
    return kept
