"""Behaviour half: what a run reads: the history, a tokenizer trained on it, and the fixed tasks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from retro_lightning.environments.base import EnvironmentFactory
from retro_lightning.policy.loading import load_tokenizer
from retro_lightning.policy.segments import training_texts
from retro_lightning.policy.tokenizer import train_tokenizer
from retro_lightning.replay.store import ReplayStore
from retro_lightning.rollout.history import History
from retro_lightning.training.tasks import fixed_tasks
from retro_lightning.trajectory import Split, Task, Trajectory

_TOKENIZER_TRAJECTORIES = 2_000


@dataclass
class Sources:
    """Makes what is missing, once, and loads it; all of it is shared between runs.

    Args:
        environments: The task families.
        history: Where the logged trajectories come from.
        cache_dir: Where histories, task lists and tokenizers are kept.
        seed: Seed of the history.
        vocabulary_size: Tokens of the tokenizer that is trained on the history's text.
        tokenizer: Directory or name of a ready tokenizer, in place of training one.
        task_counts: Fixed tasks per family in each split.
    """

    environments: Mapping[str, EnvironmentFactory]
    history: History
    cache_dir: Path
    seed: int
    vocabulary_size: int
    tokenizer: str | None
    task_counts: Mapping[Split, int]
    _tasks: dict[Split, dict[str, list[Task]]] = field(default_factory=dict, init=False)

    def prepare(self) -> None:
        """Make what is missing of history and tokenizer (one process only)."""
        path = self.history_path()
        if self.tokenizer is None and not self._tokenizer_path(path).exists():
            texts = training_texts(_evenly_spread(ReplayStore(path)))
            train_tokenizer(texts, self.vocabulary_size).save_pretrained(self._tokenizer_path(path))

    def history_path(self) -> Path:
        """The folder of the history's store, which is made first if it has to be."""
        return self.history.materialise(self.environments, self.cache_dir, self.seed)

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that ``prepare`` has seen to."""
        return load_tokenizer(self.tokenizer or str(self._tokenizer_path(self.history_path())))

    def tasks(self, split: Split) -> dict[str, list[Task]]:
        """The fixed tasks of a split by family; made once and cached."""
        if split not in self._tasks:
            self._tasks[split] = {
                family: fixed_tasks(self.cache_dir, family, make, split, self.task_counts[split])
                for family, make in self.environments.items()
            }
        return self._tasks[split]

    def _tokenizer_path(self, history: Path) -> Path:
        """Beside a history of the cache; of a store elsewhere, in the cache and not beside it."""
        name = history.name
        if history.parent != self.cache_dir:
            digest = hashlib.blake2b(str(history.resolve()).encode(), digest_size=8)
            name = f"store-{digest.hexdigest()}"
        return self.cache_dir / f"{name}-tokenizer-{self.vocabulary_size}"


def _evenly_spread(store: ReplayStore) -> list[Trajectory]:
    count = min(len(store), _TOKENIZER_TRAJECTORIES)
    return store.read(np.linspace(0, len(store) - 1, count).astype(int).tolist())
