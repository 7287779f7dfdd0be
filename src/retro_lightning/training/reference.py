"""Behaviour half: the on-policy gradient from many fresh episodes, to compare estimators with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from retro_lightning.credit.statistics import others_mean
from retro_lightning.credit.variance import (
    best_constant_cut,
    gradient_variance,
    variance_cut_limit,
)
from retro_lightning.policy.batch import Batch, collate, stack_steps
from retro_lightning.policy.policy import Policy
from retro_lightning.training.credit_inputs import score_norms_BS
from retro_lightning.training.other_policies import evaluate
from retro_lightning.training.stored_batch import trainable
from retro_lightning.trajectory import Trajectory

_CHUNK = 32
_PARTS = 8
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Reference:
    """The on-policy gradient, from many fresh episodes.

    Attributes:
        gradient: By the trainable parameters [P].
        halves_cosine: Cosine of its two halves: two estimates of the truth agree no better.
        cosine_with_head: Mean cosine of an eighth of the episodes, with the value head alone as
            baseline, to the gradient of the other seven.
        cosine_without: The same without a baseline.
        episodes: How many it is made of.
        success_rate: Of these episodes.
        step_return: Mean return-to-go of their steps, p: a long failure counts as often as it has
            steps, as it does in the gradient.
        explained_variance: EV of the value head over the same steps, its bias counted against it:
            ``1 - E (G - V)^2 / Var G``.
        cut: By how much the value head as baseline cuts the variance of a trajectory's gradient by
            the logits (``gradient_variance``).
        limit: What it would cut if scores were equally long whatever comes of them; for returns of
            0 and 1 it is 1 / ((1 - p) (1 - EV)); see ``variance_cut_limit``.
        constant_cut: What the best constant cuts.
    """

    gradient: Tensor
    halves_cosine: float
    cosine_with_head: float
    cosine_without: float
    episodes: int
    success_rate: float
    step_return: float
    explained_variance: float
    cut: float
    limit: float
    constant_cut: float


def reference_gradient(
    policy: Policy, trajectories: Sequence[Trajectory], shares: Mapping[str, float]
) -> Reference:
    """Gradient of the mean return at the present policy: return-to-go less a baseline.

    The baseline is the value head's estimate and the mean by which it fails the family's other
    episodes, so that an untrained head does no harm. It leaves the episode itself out; the gradient
    is unbiased.

    Args:
        policy: The policy that collected the trajectories.
        trajectories: Fresh episodes.
        shares: Share of each family in the batch that is compared; families count accordingly.
    """
    usable = [t for t in trajectories if t.steps and t.truncation != "fault"]
    usable.sort(key=lambda t: t.length)  # neighbours are alike in length; parts alternate
    families = sorted({t.task.family for t in usable})
    family_N = np.array([families.index(t.task.family) for t in usable])
    share_F = np.bincount(family_N) / len(usable)
    weight_N = np.array([shares.get(families[f], 0.0) / share_F[f] for f in family_N])
    chunks = [usable[i : i + _CHUNK] for i in range(0, len(usable), _CHUNK)]
    told = [_told(policy, chunk) for chunk in chunks]
    returns_BS, values_BS, norms_BS, steps_BS = (
        stack_steps([part[i] for part in told]) for i in range(4)
    )
    error_N = (returns_BS - values_BS)[:, 0].double().numpy()
    offset_N = others_mean(error_N, np.ones(len(usable)), family_N, fallback=0.0)
    parts = min(_PARTS, len(usable))
    parts_K3P = torch.stack(
        [
            _summed(policy, [usable[i] for i in rows], offset_N[rows], weight_N[rows])
            for rows in (np.arange(part, len(usable), parts) for part in range(parts))
        ]
    )
    without_KP, head_KP, offset_KP = parts_K3P.unbind(1)
    ours_KP = without_KP - head_KP - offset_KP
    gradient = ours_KP.sum(dim=0)
    halves = ours_KP[::2].sum(dim=0), ours_KP[1::2].sum(dim=0)
    bare = gradient_variance(returns_BS, norms_BS, steps_BS)
    ours = gradient_variance(returns_BS - values_BS, norms_BS, steps_BS)
    going = returns_BS[steps_BS].double()
    error = going - values_BS[steps_BS].double()
    return Reference(
        gradient=gradient / len(usable),
        halves_cosine=torch.cosine_similarity(*halves, dim=0).item(),
        cosine_with_head=_to_the_others(without_KP - head_KP, gradient - ours_KP),
        cosine_without=_to_the_others(without_KP, gradient - ours_KP),
        episodes=len(usable),
        success_rate=float(np.mean([t.success for t in usable])),
        step_return=going.mean().item(),
        explained_variance=1.0 - (error.square().mean() / going.var(correction=0)).item(),
        cut=(bare / ours.clamp(min=1e-12)).item(),
        limit=variance_cut_limit(returns_BS, values_BS, steps_BS).item(),
        constant_cut=best_constant_cut(returns_BS, norms_BS, steps_BS).item(),
    )


def _told(policy: Policy, trajectories: Sequence[Trajectory]) -> tuple[Tensor, ...]:
    """Return-to-go, values, squared scores and mask of some episodes."""
    batch = collate(policy.transcript.encode_many(trajectories), trajectories)
    said = evaluate(policy, [batch])
    norms_BS = score_norms_BS([batch], said)
    if norms_BS is None:  # a distribution over whole actions: all scores taken for equally long
        norms_BS = batch.steps_BS.float()
    return _to_go(batch), said[0].values_BS, norms_BS, batch.steps_BS


def _to_go(batch: Batch) -> Tensor:
    """Undiscounted return-to-go; an episode that we cut ends there."""
    return batch.rewards_BS.flip(1).cumsum(1).flip(1) * batch.steps_BS


def _to_the_others(part_KP: Tensor, others_KP: Tensor) -> float:
    """Mean cosine of each part to the gradient of all others."""
    return torch.cosine_similarity(part_KP, others_KP, dim=1).mean().item()


def _summed(
    policy: Policy, trajectories: Sequence[Trajectory], offset_B: Floats, weight_B: Floats
) -> Tensor:
    """Weighted sums over episodes of return-to-go, value and offset, each times score: [3, P]."""
    total = torch.zeros(3, sum(p.numel() for p in trainable(policy)), dtype=torch.float64)
    for start in range(0, len(trajectories), _CHUNK):
        some = trajectories[start : start + _CHUNK]
        batch = collate(policy.transcript.encode_many(some), some)
        said = policy.evaluate(batch)
        offset_BS = torch.from_numpy(offset_B[start : start + _CHUNK])[:, None]
        weight_BS = torch.from_numpy(weight_B[start : start + _CHUNK])[:, None] * batch.steps_BS
        pushes = (_to_go(batch), said.values_BS.detach(), offset_BS)
        for row, push_BS in zip(total, pushes, strict=True):
            gradients = torch.autograd.grad(
                ((push_BS * weight_BS).to(said.logprobs_BS.dtype) * said.logprobs_BS).sum(),
                trainable(policy),
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            row += torch.cat([gradient.flatten() for gradient in gradients])
    return total
