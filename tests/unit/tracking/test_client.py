"""Processes that open a new MLflow database at once take turns."""

import fcntl
import os

import mlflow
import pytest

from retro_lightning.tracking.client import open_client


class Watching:
    """In the place of MLflow's client: is the folder held while it makes its tables?"""

    folder = ""
    held: list[bool]

    def __init__(self, tracking_uri: str | None) -> None:
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.held.append(False)
        except BlockingIOError:
            self.held.append(True)
        finally:
            os.close(handle)


@pytest.fixture
def watching(tmp_path, monkeypatch):
    monkeypatch.setattr(Watching, "folder", str(tmp_path))
    monkeypatch.setattr(Watching, "held", [], raising=False)
    monkeypatch.setattr(mlflow, "MlflowClient", Watching)
    return Watching


def test_a_sqlite_file_is_opened_by_one_process_at_a_time(watching, tmp_path, monkeypatch):
    open_client(f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: f"sqlite:///{tmp_path}/mlflow.db")
    open_client(None)
    assert watching.held == [True, True]
    open_client("http://127.0.0.1:5000")  # and it was let go of
    open_client(f"sqlite:///{tmp_path}/missing/mlflow.db")
    assert watching.held[2:] == [False, False]
