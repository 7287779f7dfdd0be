"""Behaviour half: opens MLflow's store, which a first process makes while the others wait."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SQLITE = "sqlite:///"


def open_client(tracking_uri: str | None) -> MlflowClient:
    """MLflow's client.

    MLflow makes the tables of a new database as it opens it, and fails where two processes make
    them at once; so of a SQLite file one process at a time is let in.

    Args:
        tracking_uri: Where runs are tracked; None = where MLflow does.
    """
    from mlflow import MlflowClient, get_tracking_uri

    with _alone(tracking_uri or get_tracking_uri()):
        return MlflowClient(tracking_uri)


@contextlib.contextmanager
def _alone(tracking_uri: str) -> Iterator[None]:
    """Hold the folder of a SQLite file; the system lets go of it when the process ends."""
    folder = Path(tracking_uri.removeprefix(_SQLITE)).parent
    if not tracking_uri.startswith(_SQLITE) or not folder.is_dir():
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
