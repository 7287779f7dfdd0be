"""Frozen actors made of a policy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from retro_lightning.environments.base import make_tasks
from retro_lightning.environments.proving_ground import LockedDoor
from retro_lightning.policy.policy import Policy
from retro_lightning.retrospection.actor import PolicyActor, Request, load
from tests.tiny import policy

TASKS = make_tasks("door", LockedDoor, "train", 6)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    where = tmp_path_factory.mktemp("actor") / "policy"
    policy(context=256).save(where)
    return str(where)


def requests(*reflections: str, number: int = 0) -> list[Request]:
    return [Request(LockedDoor, task, number, reflections) for task in TASKS]


def test_attempts_follow_from_task_and_number(path: str) -> None:
    actor = PolicyActor(path, seed=3)
    every = actor.attempt(requests())
    assert [t.task for t in every] == TASKS
    assert all(t.fault is None and t.length == 2 for t in every)
    alone = [actor.attempt([request])[0] for request in requests()]
    assert [[s.action for s in t.steps] for t in alone] == [
        [s.action for s in t.steps] for t in every
    ]
    others = PolicyActor(path, seed=3).attempt(requests(number=1))
    assert [t.steps[0].action for t in others] != [t.steps[0].action for t in every]


def test_it_is_told_its_reflections(path: str) -> None:
    made = PolicyActor(path).attempt(requests("the key is red"))
    tokenizer = load(path, 0).tokenizer
    text = tokenizer.decode(made[0].steps[1].generation.context_ids)  # type: ignore[union-attr]
    assert f"\nReflection: the key is red\nTask: {TASKS[0].instruction}\nAction:" in text


def test_it_is_frozen_and_leaves_its_directory_alone(path: str) -> None:
    before = {name: value.clone() for name, value in Policy.load(path).state_dict().items()}
    actor = PolicyActor(path)
    actor.attempt(requests())
    frozen = load(path, 0)
    assert not frozen.training
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    for name, value in Policy.load(path).state_dict().items():
        assert torch.equal(value, before[name])


def test_a_full_context_is_a_fault_of_its_own_attempt(path: str) -> None:
    long = Request(LockedDoor, TASKS[0], 0, ("words " * 300,))
    good = requests()
    made = PolicyActor(path).attempt([good[0], long, good[1]])
    assert [t.truncation == "fault" for t in made] == [False, True, False]
    assert "longer than the model's context of 256 tokens" in str(made[1].fault)


def test_keys_tell_actors_apart(path: str) -> None:
    assert PolicyActor(path, seed=1).key != PolicyActor(path, seed=2).key
    assert PolicyActor(path, parallel=2).key == PolicyActor(path, parallel=9).key


def test_an_actor_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no policy or Hugging Face directory"):
        PolicyActor(str(tmp_path / "nothing")).attempt(requests())
