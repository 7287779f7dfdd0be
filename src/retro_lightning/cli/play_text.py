"""Behaviour half: free text in ``play``: written by the agent or by a person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from rich.console import Console

from retro_lightning.policy.policy import Policy
from retro_lightning.rollout.session import Session
from retro_lightning.trajectory import Step, Task

Menu = tuple[str, ...] | None


@dataclass(frozen=True)
class Said:
    """What was written in one step.

    Attributes:
        action: The action.
        thought: The thought before it, if there was one.
        log_prob: Log-probability of both together under the policy; None = a person wrote.
        probabilities: Of every valid action after the thought, [A]; None for free text.
    """

    action: str
    thought: str | None = None
    log_prob: float | None = None
    probabilities: np.ndarray | None = None


class Writer(Protocol):
    """Who writes where the action is free text, or a thought comes before it."""

    @property
    def thinks(self) -> bool:
        """Whether a thought is written before every action."""

    def __call__(
        self, task: Task, steps: Sequence[Step], observation: str, valid: Menu
    ) -> Said | None:
        """Write an action, or think and choose one; None = stop playing."""


@dataclass
class AgentText:
    """Lets the policy write, with the sampling it was made with, as in a rollout.

    Args:
        policy: The policy, in eval mode.
        rng: Source of randomness; None = the most probable token.
    """

    policy: Policy
    rng: np.random.Generator | None
    _session: Session | None = field(default=None, init=False)

    @property
    def thinks(self) -> bool:
        """See ``Writer``."""
        return self.policy.text.thought_tokens > 0

    def __call__(
        self, task: Task, steps: Sequence[Step], observation: str, valid: Menu
    ) -> Said | None:
        """Write the next step, or the first of a new episode; None when the context is full."""
        transcript = self.policy.transcript
        if self._session is None or not steps:
            self._session = Session(self.policy, 1, record_distribution=True)
            self._session.start(0, task)
        session = self._session
        context = transcript.context(observation, task, first=not steps, thought=self.thinks)
        trie = None if valid is None else transcript.trie(valid)
        if not session.fits(0, context, trie):
            return None
        [choice] = session.act([0], [context], [trie], [self.rng])
        return Said(
            action=choice.text if valid is None else valid[choice.number],
            thought=choice.thought,
            log_prob=choice.log_prob,
            probabilities=None if choice.log_probs is None else np.exp(choice.log_probs),
        )


@dataclass
class HumanText:
    """Asks a person for a text.

    Args:
        console: Where to ask.
    """

    console: Console
    thinks = False

    def __call__(
        self, task: Task, steps: Sequence[Step], observation: str, valid: Menu
    ) -> Said | None:
        """Ask once; None for q or the end of input."""
        try:
            answer = self.console.input("your action (any text, q to stop): ").strip()
        except EOFError:
            return None
        return None if answer == "q" else Said(answer)
