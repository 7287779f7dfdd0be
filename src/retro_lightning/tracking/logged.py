"""Behaviour half: logs a comparison to MLflow as a run of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from retro_lightning.tracking.client import open_client
from retro_lightning.tracking.comparison_report import Report
from retro_lightning.tracking.mlflow import create_run

_EXPERIMENT = "comparisons"
_MAX_NAME = 120


def log_comparison(report: Report, files: Sequence[Path], tracking_uri: str) -> str:
    """Log the page, the figures and the numbers; returns the run's id."""
    client = open_client(tracking_uri)
    note = "\n".join(f"- {sentence}" for sentence in report.notes)
    name = report.title[:_MAX_NAME]
    run_id = create_run(client, _EXPERIMENT, name, {"mlflow.note.content": note})
    for summary in report.summaries:
        client.log_metric(run_id, _metric(f"mean/{summary.label}"), summary.mean)
    for file in files:
        folder = "figures" if file.suffix == ".png" else None
        client.log_artifact(run_id, str(file), folder)
    client.set_terminated(run_id)
    return run_id


def _metric(name: str) -> str:
    return "".join(c if c.isalnum() or c in "/_-. :" else "_" for c in name)[:240]
