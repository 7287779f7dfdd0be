"""What the key-value cache saves in rollouts of 20 turns with the full history in sight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import nn

from retro_lightning.policy.policy import Policy
from retro_lightning.policy.trie import IntArray, TokenTrie
from retro_lightning.rollout.session import Session
from retro_lightning.rollout.turn import Choice
from retro_lightning.trajectory import Trajectory
from tests.benchmarks.conftest import MainJob
from tests.benchmarks.measuring import interleaved, show

pytestmark = pytest.mark.slow

LIMIT = 5.0
ROWS, TURNS, ROUNDS = 64, 20, 3


@dataclass
class Conversations:
    """Observations of logged episodes, replied to by a policy; the environments cost nothing.

    Observations don't depend on what the policy replies, so that every way to compute the replies
    has the same to do.
    """

    policy: Policy
    episodes: list[Trajectory]
    history: list[IntArray] = field(default_factory=list)

    def contexts(self, turn: int) -> list[IntArray]:
        """New tokens of each conversation."""
        return [
            self.policy.transcript.context(t.steps[turn].observation, t.task, first=turn == 0)
            for t in self.episodes
        ]

    def tries(self, turn: int) -> list[TokenTrie]:
        """Valid actions of each conversation."""
        return [
            self.policy.transcript.trie(t.steps[turn].valid_actions or ()) for t in self.episodes
        ]

    def rngs(self, turn: int) -> list[np.random.Generator]:
        """The same random numbers for every way to compute."""
        return [np.random.default_rng([turn, row]) for row in range(len(self.episodes))]


def cached(talk: Conversations) -> list[list[Choice]]:
    """As the collector does it."""
    rows = range(len(talk.episodes))
    session = Session(talk.policy, len(rows))
    for row in rows:
        session.start(row, talk.episodes[row].task)
    return [
        session.act(rows, talk.contexts(turn), talk.tries(turn), talk.rngs(turn))
        for turn in range(TURNS)
    ]


def transcripts(talk: Conversations, replies: list[list[Choice]]) -> list[list[IntArray]]:
    """Of each turn, the whole transcript of each conversation up to its state."""
    whole = [np.zeros(0, dtype=np.int32) for _ in talk.episodes]
    turns = []
    for turn in range(TURNS):
        if turn:
            actions = [np.array(c.generation.action_ids, np.int32) for c in replies[turn - 1]]
            whole = [np.concatenate(pair) for pair in zip(whole, actions, strict=True)]
        whole = [np.concatenate(pair) for pair in zip(whole, talk.contexts(turn), strict=True)]
        turns.append(whole)
    return turns


def afresh(talk: Conversations, turns: list[list[IntArray]]) -> list[list[Choice]]:
    """The same code with an empty cache every turn."""
    rows = range(len(talk.episodes))
    choices = []
    for turn, whole in enumerate(turns):
        session = Session(talk.policy, len(rows))
        for row in rows:
            session.start(row, talk.episodes[row].task)
        choices.append(session.act(rows, whole, talk.tries(turn), talk.rngs(turn)))
    return choices


@torch.no_grad()
def one_pass(talk: Conversations, turns: list[list[IntArray]]) -> None:
    """Hugging Face's own forward over the padded transcripts, next-token logits, no decisions.

    Less than an agent needs, which also has to decide between actions: a lower bound.
    """
    for whole in turns:
        tokens_BT = nn.utils.rnn.pad_sequence(
            [torch.from_numpy(ids.astype(np.int64)) for ids in whole], batch_first=True
        )
        hidden_BTH = talk.policy.lm.model(input_ids=tokens_BT, use_cache=False).last_hidden_state
        ends_B = torch.tensor([len(ids) - 1 for ids in whole])
        talk.policy.lm.lm_head(hidden_BTH[torch.arange(len(whole)), ends_B])


def conversations(job: MainJob) -> Conversations:
    """Logged episodes of at least 20 turns whose transcripts fit into the context."""
    every = job.store.read(np.flatnonzero(job.store.index.length >= TURNS).tolist())
    room = job.policy.max_length - 32
    fitting = [t for t in every if len(job.policy.transcript.encode(t).tokens) <= room]
    assert fitting
    return Conversations(job.policy.eval(), [fitting[i % len(fitting)] for i in range(ROWS)])


def test_cached_rollout_over_encoding_afresh(main_job, benchmark):
    talk = conversations(main_job)
    replies = cached(talk)
    turns = transcripts(talk, replies)
    again = afresh(talk, turns)
    for turn, other in zip(replies, again, strict=True):
        assert [c.number for c in turn] == [c.number for c in other]
        np.testing.assert_allclose(
            [c.log_prob for c in turn], [c.log_prob for c in other], atol=1e-4
        )
    candidates: dict[str, Callable[[], object]] = {
        "key-value cache": lambda: cached(talk),
        "transcript afresh, same code": lambda: afresh(talk, turns),
        "transcript afresh, one bare pass, no action": lambda: one_pass(talk, turns),
    }
    timings = benchmark.pedantic(interleaved(candidates, ROUNDS), rounds=1)
    longest = max(len(ids) for ids in turns[-1])
    show(f"{ROWS} rollouts of {TURNS} turns, up to {longest} tokens", timings, "key-value cache")
    slower = [t.processor for name, t in timings.items() if name != "key-value cache"]
    ratio = min(slower) / timings["key-value cache"].processor
    benchmark.extra_info.update(ratio=ratio)
    assert ratio >= LIMIT
