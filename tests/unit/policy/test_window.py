"""A history window: each step in a sequence of its own, the same in rollout and training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

import naive
import tiny
from retro_lightning.environments.base import make_tasks
from retro_lightning.policy.batch import collate
from retro_lightning.policy.conditioning import LearnedTaskEmbedding
from retro_lightning.policy.policy import Policy
from retro_lightning.policy.scoring import SequenceScore
from retro_lightning.policy.text import TextSampling
from retro_lightning.rollout.collector import Job, collect
from retro_lightning.trajectory import Trajectory

HEAD = tiny.policy().value_head
LONG = " ".join(["the wall is near"] * 80)


class Chat(gymnasium.Env[str, str]):
    """Seven turns of random words; with ``free`` every second action is free text."""

    def __init__(self, free: bool = False, instruction: str = "say") -> None:
        self._free, self._instruction = free, instruction

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        self._rng, self._turn = np.random.default_rng(seed), 0
        return tiny.text(self._rng, 5), {"instruction": f"{self._instruction} {seed}", **self._menu}

    @property
    def _menu(self) -> dict[str, Any]:
        return {} if self._free and self._turn % 2 else {"valid_actions": tiny.ACTIONS}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self._turn += 1
        over = self._turn == 7
        return tiny.text(self._rng, int(self._rng.integers(1, 9))), 0.0, over, False, self._menu


def windowed(
    turns: int | None, *, context: int = 512, kind: str = "llama", **kwargs: Any
) -> Policy:
    """A random policy with a window."""
    tokenizer = tiny.tokenizer()
    model = tiny.language_model(kind, len(tokenizer), context)
    return Policy(model, tokenizer, value_head=HEAD, history_window=turns, **kwargs).eval()


def rolled_out(policy: Policy, env: Any = Chat, **kwargs: Any) -> list[Trajectory]:
    tasks = make_tasks("chat", env, "train", 5)
    jobs = [Job(task, 0) for task in tasks]
    options: dict[str, Any] = {"run": "test", "seed": 3, "batch_size": 3, **kwargs}
    return list(collect(policy, {"chat": env}, jobs, **options))


def recomputed(policy: Policy, trajectories: Sequence[Trajectory]) -> tuple[Tensor, Tensor, Any]:
    batch = collate(policy.transcript.encode_many(trajectories), trajectories)
    with torch.no_grad():
        now = policy.evaluate(batch)
    return now.logprobs_BS[batch.steps_BS], now.values_BS[batch.steps_BS], batch


def naive_step(policy: Policy, trajectory: Trajectory, number: int, turns: int) -> float:
    """Log-probability of an action when the trajectory had begun ``turns`` - 1 turns before it."""
    first = max(0, number - turns + 1)
    tail = dataclasses.replace(trajectory, steps=trajectory.steps[first : number + 1])
    every = naive.trie_constrained(policy, tail, number - first)
    step = trajectory.steps[number]
    assert step.valid_actions is not None
    return every[step.valid_actions.index(step.action)].item()


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("turns", [1, 2, 4])
def test_a_step_is_what_it_would_be_if_the_trajectory_began_with_its_window(kind: str, turns: int):
    policy, trajectory = windowed(turns, kind=kind), tiny.trajectory(0, 6)
    now, _, batch = recomputed(policy, [trajectory])
    assert len(batch.tokens_RT) == 6
    plain = windowed(None, kind=kind)
    expected = [naive_step(plain, trajectory, number, turns) for number in range(6)]
    np.testing.assert_allclose(now, expected, atol=1e-4)


def test_a_window_as_long_as_the_trajectory_changes_nothing() -> None:
    trajectories = [tiny.trajectory(seed, steps) for seed, steps in ((0, 5), (1, 2), (2, 4))]
    one, values, _ = recomputed(windowed(None), trajectories)
    two, again, _ = recomputed(windowed(5), trajectories)
    torch.testing.assert_close(one, two, atol=1e-5, rtol=0)
    torch.testing.assert_close(values, again, atol=1e-5, rtol=0)
    short, _, _ = recomputed(windowed(2), trajectories)
    assert (one - short).abs().max() > 0.05


@pytest.mark.parametrize("turns", [1, 3])
@pytest.mark.parametrize(
    ("env", "kwargs"),
    [
        (Chat, {}),
        (lambda: Chat(instruction=LONG), {}),
        (Chat, {"distribution": SequenceScore()}),
        (lambda: Chat(free=True), {"text": TextSampling(max_tokens=6, thought_tokens=4)}),
    ],
    ids=["menus", "long task", "whole actions", "thoughts and texts"],
)
def test_rollout_and_training_agree(turns: int, env: Any, kwargs: dict[str, Any]) -> None:
    policy = windowed(turns, context=4096, **kwargs)
    out = rolled_out(policy, env)
    now, values, batch = recomputed(policy, out)
    torch.testing.assert_close(batch.behaviour_logprobs_BS[batch.steps_BS], now, atol=1e-4, rtol=0)
    torch.testing.assert_close(batch.recorded_values_BS[batch.steps_BS], values, atol=1e-4, rtol=0)


def test_whole_distributions_agree() -> None:
    policy = windowed(2)
    for trajectory in rolled_out(policy, record_distribution=True):
        every = policy.action_log_probs(trajectory)
        for step, asked in zip(trajectory.steps, every, strict=True):
            np.testing.assert_allclose(step.log_probs, asked, atol=1e-4)


def test_a_soft_prompt_stands_before_every_window() -> None:
    policy = windowed(2)
    weight = policy.lm.get_input_embeddings().weight
    prompt = LearnedTaskEmbedding(["chat"]).build(weight, seed=0)
    with torch.no_grad():
        for vectors in prompt.parameters():
            vectors.normal_(generator=torch.Generator().manual_seed(0))
    prompted = Policy(
        policy.lm,
        policy.tokenizer,
        value_head=policy.value_head,
        soft_prompt=prompt,
        history_window=2,
    ).eval()
    out = rolled_out(prompted)
    now, _, batch = recomputed(prompted, out)
    torch.testing.assert_close(batch.behaviour_logprobs_BS[batch.steps_BS], now, atol=1e-4, rtol=0)
    without, _, _ = recomputed(policy, out)
    assert (without - now).abs().max() > 0.01


def test_an_episode_longer_than_the_context_goes_on() -> None:
    whole = rolled_out(windowed(None, context=180))
    assert {t.truncation for t in whole} == {"context_full"}
    policy = windowed(2, context=180)
    out = rolled_out(policy)
    assert {(t.truncation, t.length) for t in out} == {(None, 7)}
    assert {encoded.steps for encoded in policy.transcript.encode_many(out)} == {7}


def test_the_final_state_has_a_window_too() -> None:
    trajectory = tiny.trajectory(0, 4, truncation="collector_limit")
    longer = dataclasses.replace(
        trajectory,
        steps=(
            *trajectory.steps,
            dataclasses.replace(trajectory.steps[0], observation=trajectory.final_observation),
        ),
    )
    policy = windowed(2)
    batch = collate(policy.transcript.encode_many([trajectory]), [trajectory])
    with torch.no_grad():
        final = policy.evaluate(batch).final_values_B
    _, values, _ = recomputed(policy, [longer])
    assert float(final[0]) == pytest.approx(float(values[-1]), abs=1e-5)


def test_gradients_reach_the_window_alone() -> None:
    policy, trajectory = windowed(2), tiny.trajectory(0, 4)
    batch = collate(policy.transcript.encode_many([trajectory]), [trajectory])
    embed = policy.lm.get_input_embeddings()
    seen: list[Tensor] = []
    handle = embed.register_forward_hook(lambda _m, _i, out: seen.append(out) or out.retain_grad())
    policy.evaluate(batch).logprobs_BS[0, 3].backward()
    handle.remove()
    assert seen[0].grad is not None
    touched = seen[0].grad.abs().sum(dim=(1, 2)) > 0
    assert touched.tolist() == [False, False, False, True]


def test_a_saved_policy_keeps_its_window(tmp_path) -> None:
    policy = windowed(3)
    policy.save(tmp_path / "policy")
    again = Policy.load(tmp_path / "policy").eval()
    assert again.transcript.history_window == 3
    trajectory = tiny.trajectory(0, 5)
    torch.testing.assert_close(
        recomputed(again, [trajectory])[0], recomputed(policy, [trajectory])[0]
    )


@pytest.mark.parametrize("turns", [0, -1])
def test_an_empty_window_is_refused(turns: int) -> None:
    with pytest.raises(ValueError, match=f"history_window is {turns}: give at least 1"):
        windowed(turns)
