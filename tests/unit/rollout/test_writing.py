"""Free text and thoughts in rollouts: what is recorded, learnt from as sampled, and limited."""

from __future__ import annotations

import functools
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import tiny
from retro_lightning.environments.base import make_tasks
from retro_lightning.environments.tool_calls import ToolCalls
from retro_lightning.environments.tool_use import ToolUse
from retro_lightning.policy.policy import Policy
from retro_lightning.policy.text import TextSampling
from retro_lightning.rollout.collector import Job, collect
from retro_lightning.training.agreement import TOLERANCE, check_agreement
from retro_lightning.trajectory import Trajectory

SAMPLINGS = (
    TextSampling(max_tokens=9),
    TextSampling(max_tokens=9, temperature=0.6, top_p=0.7, stop=["e", "r"]),
    TextSampling(max_tokens=9, thought_tokens=6, top_p=0.9, temperature=1.3),
)


class Talk(gymnasium.Env[str, str]):
    """Turns of free text and of valid actions in an order that follows from the seed."""

    heard: list[str]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        self._rng = np.random.default_rng(seed)
        self._left = int(self._rng.integers(1, 7))
        self.heard = []
        return tiny.text(self._rng, 3), {"instruction": f"talk {seed}", **self._menu()}

    def _menu(self) -> dict[str, Any]:
        return {} if self._rng.random() < 0.5 else {"valid_actions": tiny.ACTIONS}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.heard.append(action)
        self._left -= 1
        return tiny.text(self._rng, 3), 0.0, self._left == 0, False, self._menu()


def jobs(count: int = 8) -> list[Job]:
    return [Job(task, 0) for task in make_tasks("talk", Talk, "train", count)]


def run(policy: Policy, sampling: TextSampling | None, **kwargs: Any) -> list[Trajectory]:
    options = {"run": "test", "seed": 3, "batch_size": 5, "text": sampling, **kwargs}
    return list(collect(policy, {"talk": Talk}, options.pop("jobs", jobs()), **options))


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny.policy()


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_rollout_and_training_agree_on_mixed_batches(kind: str, sampling: TextSampling) -> None:
    acting = tiny.policy(kind)
    out = run(acting, sampling)
    kinds = {step.valid_actions is None for t in out for step in t.steps}
    assert kinds == {True, False}
    assert check_agreement(acting, out) <= TOLERANCE
    assert min(step.log_prob for t in out for step in t.steps) < -5.0  # something to agree on


@pytest.mark.parametrize("trained", ["action", "thought"])
def test_rollout_and_training_agree_on_the_parts_that_are_learnt(trained: Any) -> None:
    whole = tiny.policy()
    acting = Policy(
        whole.lm, whole.tokenizer, value_head=whole.value_head, text=SAMPLINGS[2], trained=trained
    ).eval()
    out = run(acting, None)  # as the policy says
    assert all(step.thought is not None for t in out for step in t.steps)
    assert check_agreement(acting, out) <= TOLERANCE


def test_the_records_say_what_was_written(policy: Policy) -> None:
    eos, tokenizer = policy.transcript.end_of_text, policy.tokenizer
    for sampling in SAMPLINGS:
        cut = 0
        for step in (step for t in run(policy, sampling, jobs=jobs(16)) for step in t.steps):
            made = step.generation
            assert made is not None
            written = made.action_ids[made.thought_length :]
            texts = [(written, step.action)] if step.valid_actions is None else []
            if sampling.thought_tokens:
                marker = len(policy.transcript.marker)
                texts.insert(0, (made.action_ids[: made.thought_length - marker], step.thought))
            assert made.temperature == (sampling.temperature if texts else 1.0)
            for ids, text in texts:
                assert 1 <= len(ids) <= 9
                assert eos not in ids[:-1]
                cut += ids[-1] != eos
                said = tokenizer.decode(ids, skip_special_tokens=True).removeprefix(" ")
                for stop in sampling.stop:
                    assert stop not in text
                assert said.startswith(text) if sampling.stop else said == text
            free = sum(len(ids) for ids, _ in texts)
            if sampling.top_p < 1 and free:
                assert made.kept_ids is not None
                assert len(made.kept_ids) == free
                tokens = [i for ids, _ in texts for i in ids]
                assert all(t in kept for t, kept in zip(tokens, made.kept_ids, strict=True))
            else:
                assert made.kept_ids is None
        assert cut > 0


def test_a_text_may_end_by_itself() -> None:
    acting = tiny.policy()
    eos = acting.transcript.end_of_text
    with torch.no_grad():  # every token is the end, from any state: a text of no words
        head = torch.nn.Linear(32, len(acting.tokenizer))
        head.weight.copy_(acting.lm.get_output_embeddings().weight)
        head.bias.zero_()
        head.bias[eos] = 1e3
    acting.lm.set_output_embeddings(head)
    for step in (step for t in run(acting, SAMPLINGS[0]) for step in t.steps):
        if step.valid_actions is None:
            assert step.action == ""
            assert step.generation.action_ids == (eos,)
            assert step.log_prob == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("sampling", SAMPLINGS[1:])
def test_an_episode_depends_on_its_own_seeds_alone(policy: Policy, sampling: TextSampling) -> None:
    whole = run(policy, sampling)
    assert run(policy, sampling) == whole
    turned = run(policy, sampling, jobs=jobs()[::-1], batch_size=3)[::-1]
    for one, two in zip(whole, turned, strict=True):
        assert [s.action for s in one.steps] == [s.action for s in two.steps]
        assert [s.thought for s in one.steps] == [s.thought for s in two.steps]
    assert [s.action for t in run(policy, sampling, seed=4) for s in t.steps] != [
        s.action for t in whole for s in t.steps
    ]


def test_greedy_text_is_the_same_for_every_seed_and_claims_no_log_prob(policy: Policy) -> None:
    one, two = (run(policy, SAMPLINGS[2], greedy=True, seed=seed) for seed in (1, 2))
    assert one == two
    assert all(s.log_prob is None for t in one for s in t.steps)


def test_a_turn_that_might_not_fit_ends_the_episode_before_it() -> None:
    for sampling in SAMPLINGS:
        small = tiny.policy(context=90)
        out = run(small, sampling, jobs=jobs(12))
        assert {t.truncation for t in out} >= {"context_full"}
        for trajectory in out:
            encoded = small.transcript.encode(trajectory)
            assert encoded.steps == trajectory.length
            assert len(encoded.tokens) <= 90
        assert check_agreement(small, out) <= TOLERANCE


def test_a_top_p_of_almost_nothing_is_greedy(policy: Policy) -> None:
    sampled = run(policy, TextSampling(max_tokens=9, top_p=1e-6))
    greedy = run(policy, TextSampling(max_tokens=9), greedy=True)
    for one, two in zip(sampled, greedy, strict=True):
        if one.steps[0].valid_actions is None:
            assert one.steps[0].action == two.steps[0].action
            assert one.steps[0].log_prob == 0.0


def test_logits_that_are_no_numbers_are_told_with_task_and_step() -> None:
    broken = tiny.policy()
    with torch.no_grad():
        broken.lm.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"task talk:\w+, step 0: .*logits are not finite"):
        run(broken, SAMPLINGS[0])


def test_written_calls_of_the_service_desk_are_rolled_out_and_agree(policy: Policy) -> None:
    desk = functools.partial(ToolCalls, ToolUse, patience=3, penalty=0.5)
    tasks = make_tasks("desk", desk, "train", 4)
    acting = tiny.policy(context=2048)
    out = list(
        collect(
            acting,
            {"desk": desk},
            [Job(task, 0) for task in tasks],
            run="test",
            seed=1,
            text=TextSampling(max_tokens=8),
        )
    )
    # A random model writes no JSON: each episode ends after three failures at 0.5 each.
    assert [(t.length, t.total_return, t.truncation) for t in out] == [(3, -1.5, "task_limit")] * 4
    assert all("no call: it is not a JSON object" in t.final_observation for t in out)
    assert check_agreement(acting, out) <= TOLERANCE
