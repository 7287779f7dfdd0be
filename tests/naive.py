"""A naive scorer: every candidate in a forward pass of its own, float64 outside the model."""

from __future__ import annotations

import torch
from torch import Tensor

from retro_lightning.policy.policy import Policy
from retro_lightning.trajectory import Trajectory


def prefix(policy: Policy, trajectory: Trajectory, number: int) -> list[int]:
    """Tokens before the action of one step, segment by segment."""
    ids: list[int] = []
    for i, step in enumerate(trajectory.steps[: number + 1]):
        context = policy.transcript.context(step.observation, trajectory.task, first=i == 0)
        ids += context.tolist()
        if i < number:
            ids += candidate(policy, step.action)
    return ids


def candidate(policy: Policy, action: str) -> list[int]:
    """Tokens of an action, end included."""
    ids: list[int] = policy.tokenizer.encode(f" {action}", add_special_tokens=False)
    return [*ids, policy.transcript.end]


def logits(policy: Policy, before: list[int], ids: list[int]) -> Tensor:
    """Logits [len(ids), V] that each token of ``ids`` is drawn from, with gradient."""
    every = policy.lm(input_ids=torch.tensor([before + ids])).logits[0]
    result: Tensor = every[len(before) - 1 : -1].double()
    return result


def trie_constrained(policy: Policy, trajectory: Trajectory, number: int) -> Tensor:
    """Log-probabilities of a step's valid actions, each node's siblings found by comparison."""
    before = prefix(policy, trajectory, number)
    menu = [candidate(policy, action) for action in trajectory.steps[number].valid_actions or ()]
    result = []
    for ids in menu:
        logits_TV = logits(policy, before, ids)
        total = torch.zeros((), dtype=torch.float64)
        for j, token in enumerate(ids):
            allowed = sorted({o[j] for o in menu if o[:j] == ids[:j] and len(o) > j})
            scores = logits_TV[j, allowed]
            total = total + scores[allowed.index(token)] - torch.logsumexp(scores, 0)
        result.append(total)
    return torch.stack(result)
