"""The main job's environments, tokenizer and model, over a small history of its own kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from retro_lightning.policy.policy import Policy
from retro_lightning.policy.segments import training_texts
from retro_lightning.policy.tokenizer import train_tokenizer
from retro_lightning.replay.store import ReplayStore
from retro_lightning.rollout.history import ScriptedHistory
from retro_lightning.training.memory import ReplayMemory

CONFIG = Path(__file__).parents[2] / "conf" / "multitask.yaml"


@dataclass(frozen=True)
class MainJob:
    """What the main job works with, but for the length of its history."""

    data: Any
    policy: Policy
    memory: ReplayMemory
    store: ReplayStore


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def main_job(tmp_path_factory: pytest.TempPathFactory) -> MainJob:
    from retro_lightning.config import command

    place = tmp_path_factory.mktemp("main-job")
    args = ["--config", str(CONFIG), "--trainer.logger", "false"]
    args += ["--model.language_model.init_args.recall_steps", "0"]
    args += ["--trainer.default_root_dir", str(place)]
    cli = command.build("fit", args)
    data = cli.datamodule
    history = ScriptedHistory(tasks_per_family=12, behaviours=data.history.behaviours)
    store = ReplayStore(history.materialise(data.environments, place, seed=1))
    texts = training_texts(store.read(range(len(store))))
    tokenizer = train_tokenizer(texts, data.sources.vocabulary_size)
    policy = Policy.build(cli.model.language_model, tokenizer, seed=1)
    return MainJob(data, policy, ReplayMemory(store, None, policy.transcript), store)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
