"""Behaviour half: the fixed tasks of a split, listed once and kept beside the histories."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from retro_lightning.environments.base import EnvironmentFactory, describe, make_tasks
from retro_lightning.trajectory import SCHEMA_VERSION, Split, Task


class TaskBatches:
    """Iterates over batches of tasks to be evaluated.

    Args:
        batches: The batches.
    """

    def __init__(self, batches: Sequence[list[Task]]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._batches)

    def __iter__(self) -> Iterator[list[Task]]:
        """Yield the batches."""
        return iter(self._batches)


def fixed_tasks(
    cache_dir: Path, family: str, make: EnvironmentFactory, split: Split, count: int
) -> list[Task]:
    """The first ``count`` tasks of a family's split, read from the cache where they stand there.

    Args:
        cache_dir: Directory of the caches; the list's file is named by a hash of what defines it.
        family: Name of the family.
        make: Makes the family's environment.
        split: Which split.
        count: How many tasks.

    Raises:
        ValueError: If the family has fewer distinct tasks in that split.
    """
    definition = json.dumps([SCHEMA_VERSION, family, describe(make), split, count])
    digest = hashlib.blake2b(definition.encode(), digest_size=8).hexdigest()
    path = cache_dir / f"tasks-{split}-{digest}.json"
    if path.exists():
        return [Task(**record) for record in json.loads(path.read_text(encoding="utf-8"))]
    tasks = make_tasks(family, make, split, count)
    cache_dir.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps([asdict(task) for task in tasks]), encoding="utf-8")
    temporary.replace(path)
    return tasks
