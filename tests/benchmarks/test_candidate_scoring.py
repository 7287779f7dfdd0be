"""Scoring valid actions: packed against one forward pass each, and the default against packed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from retro_lightning.policy.actions import TrieConstrained
from retro_lightning.policy.batch import Batch, collate
from retro_lightning.policy.policy import Policy
from retro_lightning.policy.scoring import SequenceScore
from retro_lightning.policy.tokenizer import train_tokenizer
from retro_lightning.policy.value_head import ValueHead
from retro_lightning.trajectory import Step, Task, Trajectory
from tests.benchmarks.measuring import interleaved, show

pytestmark = pytest.mark.slow

LEAST_OVER_NAIVE, LEAST_OVER_PACKED = 12.0, 3.0
CANDIDATES, PREFIX, STEPS, ROUNDS = 24, 400, 16, 9
WORDS = [f"{a}{b}" for a in ("key", "door", "box", "ball", "wall", "room") for b in "abcdefgh"]


def sentence(rng: np.random.Generator, words: int) -> str:
    return " ".join(rng.choice(WORDS, words))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    rng = np.random.default_rng(0)
    texts = [f"Observation: {sentence(rng, 12)}\nTask: {sentence(rng, 4)}\nAction:"] * 9
    texts += [f" {sentence(rng, 4)}" for _ in range(2_000)]
    return train_tokenizer(texts, 1024)


@pytest.fixture(scope="module")
def policies(tokenizer: PreTrainedTokenizerFast) -> dict[str, Policy]:
    """One model of 2.9 M parameters under two distributions."""
    shape = {
        "vocab_size": 1024,
        "hidden_size": 192,
        "intermediate_size": 608,
        "num_hidden_layers": 5,
        "num_attention_heads": 6,
        "max_position_embeddings": 1024,
    }
    torch.manual_seed(0)
    lm = LlamaForCausalLM(LlamaConfig(**shape))
    assert sum(p.numel() for p in lm.parameters()) == pytest.approx(2.9e6, rel=0.02)
    return {
        made.kind: Policy(lm, tokenizer, value_head=ValueHead(192), distribution=made).eval()
        for made in (TrieConstrained(), SequenceScore())
    }


def trajectory(tokenizer: PreTrainedTokenizerFast, steps: int, tokens: int) -> Trajectory:
    """An episode of so many tokens up to its last action, with 24 actions of four words a step."""
    rng = np.random.default_rng(1)
    task = Task(task_id="t", family="f", instruction=sentence(rng, 3), seed=0, split="train")
    menu = tuple(sentence(rng, 4) for _ in range(CANDIDATES))
    action = len(tokenizer.encode(f" {menu[0]}\n"))
    fixed = len(tokenizer.encode(f"Observation:\nTask: {task.instruction}\nAction:"))
    room = (tokens - (steps - 1) * action) // steps - fixed
    seen = tokenizer.decode(tokenizer.encode(sentence(rng, 500))[:room])
    step = Step(observation=seen.strip(), valid_actions=menu, action=menu[0], reward=0.0)
    return Trajectory(
        task=task,
        steps=(step,) * steps,
        final_observation="",
        final_valid_actions=menu,
        terminated=True,
        truncated=False,
        truncation=None,
        success=True,
        source="scripted:random",
        behaviour_id="random",
        run="benchmark",
        attempt=0,
    )


def batch_of(policy: Policy, episode: Trajectory) -> Batch:
    return collate([policy.transcript.encode(episode)], [episode])


@torch.no_grad()
def naive(policy: Policy, episode: Trajectory) -> np.ndarray:
    """Every candidate in a forward pass of its own, logits of its own tokens alone."""
    state = int(policy.transcript.encode(episode).state_positions[-1])
    before = policy.transcript.encode(episode).tokens[: state + 1].tolist()
    totals = []
    for path in policy.transcript.trie(episode.steps[-1].valid_actions or ()).paths:
        ids = torch.from_numpy(path.ids).long()
        whole = torch.cat([torch.tensor(before), ids])[None]
        logits = policy.lm(input_ids=whole, logits_to_keep=len(ids) + 1, use_cache=False).logits
        totals.append(float(logits[0, :-1].log_softmax(-1).gather(1, ids[:, None]).sum()))
    return np.log(
        np.exp(np.array(totals) - max(totals)) / np.exp(np.array(totals) - max(totals)).sum()
    )


def packed(policy: Policy, episode: Trajectory) -> np.ndarray:
    """The whole distribution of the last step, from nothing."""
    return policy.action_log_probs(episode)[-1]


def test_packed_scoring_over_a_forward_pass_per_candidate(policies, tokenizer, benchmark):
    policy, episode = policies["sequence"], trajectory(tokenizer, 1, PREFIX)
    encoded = policy.transcript.encode(episode)
    assert encoded.state_positions[0] == pytest.approx(PREFIX, abs=8)
    np.testing.assert_allclose(packed(policy, episode), naive(policy, episode), atol=1e-4)
    candidates = {
        "packed": lambda: packed(policy, episode),
        "naive": lambda: naive(policy, episode),
    }
    timings = benchmark.pedantic(interleaved(candidates, ROUNDS), rounds=1)
    show(
        f"{CANDIDATES} candidates behind {encoded.state_positions[0] + 1} tokens", timings, "packed"
    )
    ratio = timings["naive"].processor / timings["packed"].processor
    benchmark.extra_info.update(ratio=ratio)
    assert ratio >= LEAST_OVER_NAIVE


def test_the_defaults_chosen_path_over_packed_scoring(policies, tokenizer, benchmark):
    # Of a whole trajectory: the default reads the actions' log-probabilities off the trajectory's
    # own tokens, packed scoring needs every step's candidates behind it.
    default, whole = policies["trie_constrained"], policies["sequence"]
    episode = trajectory(tokenizer, STEPS, PREFIX)
    own, all_candidates = batch_of(default, episode), batch_of(whole, episode)
    assert own.steps_BS.sum() == STEPS

    def forward(policy: Policy, batch: Batch) -> None:
        with torch.no_grad():
            policy.evaluate(batch)

    def both(policy: Policy, batch: Batch) -> None:
        policy.evaluate(batch).logprobs_BS.sum().backward()
        policy.zero_grad()

    candidates = {
        "default, forward": lambda: forward(default, own),
        "packed, forward": lambda: forward(whole, all_candidates),
        "default, forward and backward": lambda: both(default, own),
        "packed, forward and backward": lambda: both(whole, all_candidates),
    }
    timings = benchmark.pedantic(interleaved(candidates, ROUNDS), rounds=1)
    tokens = int(own.attention_RT.sum()), all_candidates.candidates.packed.tokens_BL.shape[1]
    title = f"{STEPS} steps of {CANDIDATES} candidates: {tokens[0]} tokens, packed {tokens[1]}"
    show(title, timings, "default, forward")
    ratios = {
        what: timings[f"packed, {what}"].processor / timings[f"default, {what}"].processor
        for what in ("forward", "forward and backward")
    }
    benchmark.extra_info.update(ratios)
    assert min(ratios.values()) >= LEAST_OVER_PACKED
