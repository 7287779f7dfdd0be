"""Shared by all tests: ``tests`` is importable, whatever directory pytest was started from."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Two threads on two busy cores are slower than one; must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

# How long an example takes says more about the machine than about the code.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

_ROOT = str(Path(__file__).resolve().parents[1])
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database whose tables exist; making them takes seconds, copying it does not."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def workplace(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a database ready in it."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def dummy_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line configures the dummy module and datamodule instead of the real ones."""
    from retro_lightning.config import command
    from tests.dummies import DummyData, DummyModule

    def build(
        name: str, args: Sequence[str], add_arguments: Callable[[Any], None] | None = None
    ) -> command.Command:
        return command.Command(
            name,
            args,
            model_class=DummyModule,
            datamodule_class=DummyData,
            add_arguments=add_arguments,
        )

    monkeypatch.setattr(command, "build", build)
