"""Data half: the words of the project as frozen records. Behaviour lives elsewhere.

Shape legend, used for every tensor in the project (``logprobs_BS``, ``tokens_RT``):

======  =====================================================================
letter  meaning
======  =====================================================================
B       trajectories in a batch
R       token sequences of a batch: B of them, or one per step with a history window
S       steps (turns) of a trajectory, padded to the longest of the batch
T       tokens of a sequence, padded to the longest of the batch
D       decisions of a batch: token choices with more than one allowed token
C       children of a trie node: the tokens allowed at a decision
A       valid actions of a step
N       rows of a store index (trajectories, unbatched)
H       hidden size of the language model
======  =====================================================================

Units: rewards and returns are in the environment's own units (our environments: one task solved =
at most 1); lengths are in steps, not tokens; log-probabilities are natural logarithms.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import Literal

SCHEMA_VERSION = 3
"""Version of the record layout; the replay store reads older ones, filling in what they lacked."""

Split = Literal["train", "val", "test"]
Truncation = Literal["task_limit", "collector_limit", "context_full", "fault"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One problem to solve.

    Attributes:
        task_id: Stable name, ``<family>:<hash of initial state and instruction>``.
        family: Kind of problem, such as ``babyai/go-to``.
        instruction: What to do, in natural language, as shown to the policy.
        seed: Reset seed of the environment; the initial state follows from it alone.
        split: Which of the disjoint sets the task belongs to.
    """

    task_id: str
    family: str
    instruction: str
    seed: int
    split: Split


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """Tokens of one step exactly as the policy saw and wrote them.

    Attributes:
        context_ids: Tokens fed since the previous action ended (task, observation, markers).
        action_ids: All tokens that the policy wrote in this step: first its thought, if any, with
            the token that ends it, then the action with its end-of-action token.
        value: Value head's estimate of the return from this state on, if there was a value head.
        thought_length: How many of ``action_ids``, from the first on, are the thought.
            The marker of the action, which nobody chose, belongs to it.
        thought_log_prob: The thought's part of the step's log-probability; None = no thought.
        temperature: What the logits of free text were divided by before sampling.
        kept_ids: For each token of free text (the thought's first), the tokens that a truncated
            sampler (top-p) chose from; None = the whole vocabulary, or no free text.
    """

    context_ids: tuple[int, ...]
    action_ids: tuple[int, ...]
    value: float | None = None
    thought_length: int = 0
    thought_log_prob: float | None = None
    temperature: float = 1.0
    kept_ids: tuple[tuple[int, ...], ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One turn: what was seen, what could be done, what was done, what it brought.

    Attributes:
        observation: Text the agent saw before it acted.
        valid_actions: The actions it could choose from; None where the action is free text.
        action: The action it took.
        reward: Reward received for the action.
        thought: Reasoning written before the action, if any.
        log_prob: Log-probability of the action under the behaviour, with that of the thought that
            our policy wrote before it; None = unknown, never 0.
        log_probs: Log-probability of every valid action under the behaviour, in their order.
        generation: Exact tokens, for actions that a policy of ours wrote.
    """

    observation: str
    valid_actions: tuple[str, ...] | None
    action: str
    reward: float
    thought: str | None = None
    log_prob: float | None = None
    log_probs: tuple[float, ...] | None = None
    generation: Generation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """A task and the steps of one attempt at it.

    Attributes:
        task: The task attempted.
        steps: The turns, in order; empty only for a faulted reset and for an outcome record.
        final_observation: Text after the last action.
        final_valid_actions: Valid actions after the last action; None for free text.
        terminated: The environment ended the episode (solved or failed).
        truncated: The episode was cut; ``truncation`` says by what.
        truncation: ``task_limit`` is the task's own time limit and counts as terminal;
            ``collector_limit`` and ``context_full`` are ours and may be bootstrapped;
            ``fault`` means that the environment raised, and is never learnt from.
        success: Whether the task was solved.
        source: ``rollout``, ``scripted:<name>`` or ``import:<format>``.
        behaviour_id: Which behaviour acted, for example ``noisy_expert(epsilon=0.3)``.
        run: Name of the run or history that made the trajectory.
        attempt: Number of this attempt at the task by this behaviour, from 0.
        policy_version: Optimiser steps taken when the rollout began; None if no policy of ours.
        tokenizer: Fingerprint of the tokenizer that ``generation`` ids belong to.
        fault: The sentence that describes the fault, if there was one.
        reflections: What the agent had been told about earlier attempts at this task when this one
            began, oldest first.
        outcome_return: Return of an *outcome record*: a log told how the attempt ended but not
            what was done. Such records have no steps; they are counted and never learnt from.
            None = not an outcome record.
        recorded_at: When it was recorded, in seconds since 1970 (UTC): by the log's own account,
            else when it came into a store; None = unknown. No part of what it says: two
            trajectories that differ in nothing else are equal.
    """

    task: Task
    steps: tuple[Step, ...]
    final_observation: str
    final_valid_actions: tuple[str, ...] | None
    terminated: bool
    truncated: bool
    truncation: Truncation | None
    success: bool
    source: str
    behaviour_id: str
    run: str
    attempt: int
    policy_version: int | None = None
    tokenizer: str | None = None
    fault: str | None = None
    reflections: tuple[str, ...] = ()
    outcome_return: float | None = None
    recorded_at: float | None = field(default=None, compare=False)
    schema_version: int = field(default=SCHEMA_VERSION)

    def __post_init__(self) -> None:
        """Refuse records that contradict themselves.

        Raises:
            ValueError: If truncation and its reason disagree, a reward is not finite, or an
                outcome record has steps.
        """
        if self.truncated != (self.truncation is not None):
            raise ValueError(
                f"trajectory of task {self.task.task_id}: truncated={self.truncated} but the "
                f"reason is {self.truncation!r}; give a reason exactly when the episode was cut"
            )
        if self.outcome_return is not None and (
            self.steps or not math.isfinite(self.outcome_return)
        ):
            raise ValueError(
                f"outcome record of task {self.task.task_id}: it has {len(self.steps)} steps and "
                f"return {self.outcome_return}; outcome records have no steps and a finite return"
            )
        for number, step in enumerate(self.steps):
            if not math.isfinite(step.reward):
                raise ValueError(
                    f"task {self.task.task_id}, step {number}: reward {step.reward} is not finite"
                )

    @property
    def total_return(self) -> float:
        """Undiscounted sum of rewards; of an outcome record, the return that was told."""
        if self.outcome_return is not None:
            return self.outcome_return
        return math.fsum([step.reward for step in self.steps])

    @property
    def length(self) -> int:
        """Number of steps (turns, not tokens)."""
        return len(self.steps)

    @property
    def trajectory_id(self) -> str:
        """Identity: hash of (source, behaviour, run, task, environment seed, attempt, version)."""
        identity = (
            self.source,
            self.behaviour_id,
            self.run,
            self.task.task_id,
            self.task.seed,
            self.attempt,
            self.policy_version,
        )
        return hashlib.blake2b(_ENCODER.encode(identity).encode(), digest_size=16).hexdigest()


_ENCODER = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"))
