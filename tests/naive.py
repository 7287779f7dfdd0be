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


def trie_constrained(
    policy: Policy, trajectory: Trajectory, number: int, *, uniform_prior: bool = False
) -> Tensor:
    """Log-probabilities of a step's valid actions, each node's siblings found by comparison."""
    before = prefix(policy, trajectory, number)
    menu = [candidate(policy, action) for action in trajectory.steps[number].valid_actions or ()]
    distinct = {tuple(ids) for ids in menu}
    result = []
    for ids in menu:
        logits_TV = logits(policy, before, ids)
        total = torch.zeros((), dtype=torch.float64)
        for j, token in enumerate(ids):
            allowed = sorted({o[j] for o in menu if o[:j] == ids[:j] and len(o) > j})
            scores = logits_TV[j, allowed]
            if uniform_prior:
                below = [sum(o[: j + 1] == (*ids[:j], a) for o in distinct) for a in allowed]
                scores = scores + torch.tensor(below).log()
            total = total + scores[allowed.index(token)] - torch.logsumexp(scores, 0)
        result.append(total)
    return torch.stack(result)


def sequence(policy: Policy, before: list[int], ids: list[int]) -> Tensor:
    """Sum of token log-probabilities over the whole vocabulary, end included."""
    logprobs_TV = torch.log_softmax(logits(policy, before, ids), dim=-1)
    return logprobs_TV[torch.arange(len(ids)), torch.tensor(ids)].sum()


def whole(policy: Policy, trajectory: Trajectory, number: int, kind: str) -> Tensor:
    """Log-probabilities of a step's valid actions, all different, each scored as a whole."""
    before = prefix(policy, trajectory, number)
    bare = policy.tokenizer("x")["input_ids"]
    bos = bare[:1] if bare[:1] == [policy.tokenizer.bos_token_id] else []
    bare = [*bos, *policy.tokenizer.encode("\nAction:", add_special_tokens=False)]
    scores = []
    for action in trajectory.steps[number].valid_actions or ():
        ids = candidate(policy, action)
        score = sequence(policy, before, ids)
        if kind == "token_mean":
            score = score / len(ids)
        elif kind == "word_mean":
            score = score / len(action.split())
        elif kind == "pmi":
            score = score - sequence(policy, bare, ids)
        scores.append(score)
    return torch.log_softmax(torch.stack(scores), dim=0)
