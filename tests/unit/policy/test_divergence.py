"""The divergence between distributions over the same valid actions."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import tiny
from retro_lightning.policy.actions import TrieConstrained
from retro_lightning.policy.conditioning import LearnedTaskEmbedding
from retro_lightning.policy.divergence import divergences, kl, mean_divergences
from retro_lightning.policy.policy import Policy
from retro_lightning.policy.scoring import SequenceScore
from retro_lightning.policy.value_head import ValueHead


def test_kl_is_that_of_the_definition() -> None:
    # p = (1/2, 1/2, 0), q = (1/4, 1/2, 1/4): 1/2 log 2 + 1/2 log 1 + 0.
    with np.errstate(divide="ignore"):
        p, q = np.log([0.5, 0.5, 0.0]), np.log([0.25, 0.5, 0.25])
    assert kl(p, q) == pytest.approx(0.5 * np.log(2.0))
    assert kl(p, p) == 0.0


def test_the_default_is_no_softmax_over_sequences_and_the_divergence_says_by_how_much() -> None:
    policy = tiny.policy()
    trajectories = [tiny.trajectory(0, 3), tiny.trajectory(1, 2)]
    policy.train()
    found = divergences(policy, SequenceScore(), trajectories)
    assert policy.training
    assert divergences(policy, TrieConstrained(), trajectories).tolist() == [0.0] * 5
    policy.eval()
    whole = Policy(
        policy.lm, policy.tokenizer, value_head=ValueHead(32), distribution=SequenceScore()
    )
    expected = [
        float((np.exp(p) * (p - q)).sum())
        for t in trajectories
        for p, q in zip(policy.action_log_probs(t), whole.action_log_probs(t), strict=True)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert found.min() > 0.01
    means = mean_divergences(policy, trajectories)
    assert means["sequence"] == pytest.approx(found.mean())
    assert set(means) == {"sequence", "token_mean", "word_mean", "pmi"}


def test_the_same_distribution_over_a_window_of_turns_is_the_same() -> None:
    # Seen through other eyes (here: those of a policy without a window) the states are others.
    whole = tiny.policy()
    trajectories = [tiny.trajectory(0, 3), tiny.trajectory(1, 4)]
    near = Policy(whole.lm, whole.tokenizer, value_head=whole.value_head, history_window=1).eval()
    assert divergences(near, TrieConstrained(), trajectories).tolist() == [0.0] * 7
    far = [p for t in trajectories for p in whole.action_log_probs(t)]
    seen = [p for t in trajectories for p in near.action_log_probs(t)]
    assert max(kl(p, q) for p, q in zip(seen, far, strict=True)) > 0.01


def test_a_soft_prompt_is_in_both_distributions() -> None:
    bare = tiny.policy()
    trajectories = [tiny.trajectory(0, 3), tiny.trajectory(1, 2)]
    embeddings = bare.lm.get_input_embeddings().weight
    prompt = LearnedTaskEmbedding(["tiny"]).build(embeddings, seed=0)
    with torch.no_grad():
        prompt.vectors.mul_(5.0)  # as large as to matter
    told = Policy(bare.lm, bare.tokenizer, value_head=bare.value_head, soft_prompt=prompt).eval()
    assert divergences(told, TrieConstrained(), trajectories).tolist() == [0.0] * 5
    without = [p for t in trajectories for p in bare.action_log_probs(t)]
    seen = [p for t in trajectories for p in told.action_log_probs(t)]
    assert max(kl(p, q) for p, q in zip(seen, without, strict=True)) > 0.01


def test_steps_of_free_text_are_left_out() -> None:
    policy = tiny.policy()
    trajectory = tiny.trajectory(0, 3)
    free = dataclasses.replace(trajectory.steps[1], valid_actions=None)
    mixed = dataclasses.replace(trajectory, steps=(trajectory.steps[0], free, trajectory.steps[2]))
    assert len(divergences(policy, SequenceScore(), [mixed])) == 2
    nothing = dataclasses.replace(trajectory, steps=(free,))
    assert np.isnan(mean_divergences(policy, [nothing])["sequence"])


def test_where_every_action_is_one_token_only_the_end_tells_them_apart() -> None:
    # One word an action, under a word-level tokenizer: the trie normalises the first tokens' logits
    # and takes the end for granted; the sequence multiplies by the end's probability. With the end
    # (nearly) certain both are the same distribution.
    policy = tiny.policy(tok=tiny.word_tokenizer())
    trajectory = tiny.trajectory(0, 2, actions=("left", "red", "door"))
    before = divergences(policy, SequenceScore(), [trajectory])

    def certain(module, inputs, output):
        return torch.nn.functional.pad(output[..., 1:], (1, 0), value=80.0)

    assert policy.transcript.end == 0
    policy.lm.lm_head.register_forward_hook(certain)
    after = divergences(policy, SequenceScore(), [trajectory])
    assert (after < 1e-4).all()
    assert before.max() > after.max()
