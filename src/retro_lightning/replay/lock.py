"""Behaviour half: one import or compaction of a store at a time; appending needs no lock."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(folder: Path, purpose: str) -> Iterator[None]:
    """Hold a store's folder; the system lets go of it when the process ends, however it ends.

    Args:
        folder: The store.
        purpose: What it is held for, for the message.

    Raises:
        ValueError: If another process holds it.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"replay store {folder}: another import or compaction is at work, so this "
                f"{purpose} waits for nobody: start it again when the other is done"
            ) from None
        yield
    finally:
        os.close(handle)
