"""Behaviour half: stores that are named by what made them, written once and reused by every run."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from retro_lightning.replay.index import StoreIndex
from retro_lightning.replay.store import ReplayStore
from retro_lightning.trajectory import SCHEMA_VERSION

_MANIFEST = "history.json"


def written_once(
    cache_dir: Path, definition: Mapping[str, object], write: Callable[[ReplayStore, str], None]
) -> Path:
    """The folder of a store that is named by the hash of what defines it; written if it lacks.

    The folder appears under its name only when it is complete.

    Args:
        cache_dir: Where such stores are kept between runs.
        definition: All that the store's content follows from, as plain data.
        write: Fills the store; is given its name too, which trajectories carry as their run.
    """
    definition = {"schema": SCHEMA_VERSION, **definition}
    text = json.dumps(definition, sort_keys=True)
    name = f"history-{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"
    path = cache_dir / name
    if (path / _MANIFEST).exists():
        return path
    temporary = cache_dir / f".{name}-{uuid.uuid4().hex[:8]}"
    try:
        store = ReplayStore(temporary, create=True)
        write(store, name)
        store.refresh()
        manifest = {**definition, "trajectories": len(store), "counts": _counts(store.index)}
        (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        try:
            temporary.rename(path)
        except OSError:  # another process was faster; theirs is the same
            if not (path / _MANIFEST).exists():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path


def _counts(index: StoreIndex) -> list[dict[str, str | int]]:
    """Per family and behaviour: trajectories, successes and faults among them."""
    pairs = np.stack([index.family, index.behaviour], axis=1)
    rows: list[dict[str, str | int]] = []
    for family, behaviour in np.unique(pairs, axis=0).tolist():
        mask_N = (index.family == family) & (index.behaviour == behaviour)
        rows.append(
            {
                "family": index.families[family],
                "behaviour": index.behaviours[behaviour],
                "trajectories": int(mask_N.sum()),
                "successes": int(index.success[mask_N].sum()),
                "faults": int(index.faulted[mask_N].sum()),
            }
        )
    return rows
