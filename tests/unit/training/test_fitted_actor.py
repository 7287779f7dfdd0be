"""An actor that is fitted when it is first needed, once."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

from retro_lightning.environments.base import make_tasks
from retro_lightning.environments.proving_ground import LockedDoor
from retro_lightning.policy.language_model import LlamaFromConfig
from retro_lightning.policy.policy import Policy
from retro_lightning.retrospection.actor import PolicyActor, Request
from retro_lightning.retrospection.hints import HintedHistory
from retro_lightning.training.actor import FittedActor


def recipe(cache: Path, **changes: Any) -> FittedActor:
    settings: dict[str, Any] = {
        "environments": {"door": LockedDoor},
        "history": HintedHistory(tasks_per_family=10, attempts=2),
        "language_model": LlamaFromConfig(hidden_size=16, layers=1, heads=2, context=256),
        "optimizer": functools.partial(torch.optim.AdamW, lr=1e-3),
        "steps": 2,
        "batch_size": 4,
        "vocabulary_size": 300,
        "context": 256,
        "cache_dir": str(cache),
    }
    return FittedActor(**{**settings, **changes})


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the actor is fitted once."""
    path = tmp_path_factory.mktemp("cache")
    recipe(path).prepare()
    return path


def test_it_is_fitted_once_and_acts_like_its_policy(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: FittedActor) -> Policy:
        raise AssertionError("fitted again")

    monkeypatch.setattr(FittedActor, "_fit", refuse)
    actor = recipe(cache)
    actor.prepare()
    assert Policy.load(actor.path).version == 2
    tasks = make_tasks("door", LockedDoor, "train", 4)
    requests = [Request(LockedDoor, task, 0, ("look in the box",)) for task in tasks]
    made = actor.attempt(requests)
    assert all(t.fault is None for t in made)
    assert made == PolicyActor(str(actor.path)).attempt(requests)


def test_another_recipe_is_another_actor(cache: Path) -> None:
    actor = recipe(cache)
    assert recipe(cache, parallel=3).path == actor.path
    assert recipe(cache, parallel=3).key == actor.key
    changes: list[dict[str, Any]] = [
        {"steps": 3},
        {"seed": 2},
        {"environments": {"door": functools.partial(LockedDoor, labels=4)}},
        {"history": HintedHistory(tasks_per_family=10, attempts=3)},
    ]
    paths = {recipe(cache, **change).path for change in changes}
    assert len(paths - {actor.path}) == len(changes)


def test_the_same_recipe_elsewhere_is_the_same_actor(cache: Path, tmp_path: Path) -> None:
    other = recipe(tmp_path)
    assert other.path.name == recipe(cache).path.name
    other.prepare()
    one, two = (Policy.load(a.path).state_dict() for a in (other, recipe(cache)))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_impossible_steps(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="steps is 0"):
        recipe(tmp_path, steps=0)
