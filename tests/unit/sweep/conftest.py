"""A sweep over the dummy module: fits of milliseconds through the whole command."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from mlflow import MlflowClient

from retro_lightning.cli.main import main

ROOT = Path(__file__).parents[3]


@pytest.fixture
def dummy_job(workplace: Path, dummy_commands: None) -> None:
    """The dummy job in an empty working directory."""
    shutil.copy(ROOT / "tests" / "dummy.yaml", "dummy.yaml")


def sweep(*words: str, **changes: Any) -> int:
    """Write a sweep of the dummy job and run it."""
    Path("sweep.yaml").write_text(yaml.safe_dump(definition(**changes), sort_keys=False))
    return main(["sweep", "--config", "sweep.yaml", *words])


def study(name: str = "dummies") -> optuna.Study:
    """The study of the working directory."""
    return optuna.load_study(study_name=name, storage="sqlite:///sweeps.db")


def leave_checkpoints(fit: Path) -> None:
    """What a fit of the shipped jobs leaves in its directory."""
    for name in ("best-policy", "last-policy", "phase-0-policy"):
        (fit / "checkpoints" / name).mkdir(parents=True)
        (fit / "checkpoints" / name / "model.safetensors").touch()
    for name in ("best.ckpt", "last.ckpt"):
        (fit / "checkpoints" / name).touch()


def left() -> set[str]:
    """All that is still in directories of checkpoints, as ``trial-0000/seed-1/best-policy``."""
    found = Path("runs/dummies").glob("*/seed-*/checkpoints/*")
    return {f"{path.parents[2].name}/{path.parents[1].name}/{path.name}" for path in found}


def runs() -> list[Any]:
    """Its runs in MLflow."""
    client = MlflowClient(f"sqlite:///{Path.cwd()}/mlflow.db")
    experiment = client.get_experiment_by_name("dummies")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], max_results=500))


def definition(**changes: Any) -> dict[str, Any]:
    """What the sweep file says; metrics are the dummy's, which are always the same."""
    said = {
        "study": "dummies",
        "base": ["dummy.yaml"],
        "trials": 2,
        "seeds": [1],
        "space": {
            "model.part": {
                "choices": {
                    "strong": {"class_path": "tests.dummies.Coefficient"},
                    "none": None,
                },
            },
            "model.part.init_args.coefficient": {
                "low": 0.1,
                "high": 1.0,
                "when": {"model.part": "strong"},
            },
            "model.gamma": {"low": 0.5, "high": 1.0},
        },
        "confirm": {"top": 0},
        "heartbeat_seconds": 0.5,
    }
    return {**said, **changes}
