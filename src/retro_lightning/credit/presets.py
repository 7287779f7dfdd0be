"""Behaviour half: estimators by their usual names; what a preset fixes, ``Estimator`` composes.

Whose probabilities they correct when somebody else acted (past: the state was reached; present: the
action was taken; future: what was done afterwards):

==============================  ========  ===========  ===========
preset                          past      present      future
==============================  ========  ===========  ===========
REINFORCE, RLOO                 no        no           no
GRPO, PPO                       no        up to cap    no
VTraceActorCritic               no        up to cap    up to caps
PerDecisionImportanceSampling   yes       yes          yes
==============================  ========  ===========  ===========

"No" is exact on the present policy's own trajectories and bias on all others;
``bench estimators`` measures it on a tiny decision process and on a stored batch.
"""

from __future__ import annotations

from typing import Any

from retro_lightning.credit.advantages import Lambda, PerDecision, ReturnToGo, VTrace
from retro_lightning.credit.compose import Estimator
from retro_lightning.credit.group_baselines import GroupMean, LeaveOneOut
from retro_lightning.credit.weightings import Clipped, Cumulative, Truncated, Unweighted


class REINFORCE(Estimator):
    """Return-to-go less a baseline, times the score (Williams 1992).

    Corrects nothing: unbiased on the present policy's own trajectories, and after the first update
    of an epoch no longer quite that.
    """

    name = "reinforce"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(advantage=ReturnToGo(), weighting=Unweighted(), **kwargs)


class RLOO(Estimator):
    """REINFORCE with the leave-one-out mean of the group (Ahmadian et al. 2024).

    As ``REINFORCE``. Here each step has its own return-to-go, not one return for all of them.
    """

    name = "rloo"
    baselines = (LeaveOneOut,)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            advantage=ReturnToGo(),
            weighting=Unweighted(),
            loss_normalisation="constant",
            **kwargs,
        )


class GRPO(Estimator):
    """The clipped surrogate with group-relative returns (Shao et al. 2024, arXiv 2402.03300).

    Each episode counts alike, whatever its length, as printed there (Liu et al. 2025 call it a
    length bias). The division by the group's standard deviation is ``model.return_scale:
    GroupScale``. Others' actions are weighted up to the cap; past and future are not corrected.

    Args:
        clip: How far the probability of an action may move from the epoch's start, as a ratio,
            before its gradient stops. Lower = more cautious, higher = more reuse.
        importance_cap: Largest weight of another's action, at least 1. Lower = less variance, more
            bias towards what was done then.
    """

    name = "grpo"
    baselines = (GroupMean, LeaveOneOut)

    def __init__(self, clip: float = 0.2, importance_cap: float = 2.0, **kwargs: Any) -> None:
        super().__init__(
            advantage=ReturnToGo(),
            weighting=Clipped(clip, importance_cap),
            loss_normalisation="episode",
            **kwargs,
        )


class PPO(Estimator):
    """The clipped surrogate with generalised advantages (Schulman et al. 2017).

    The clip is against the policy at the epoch's start; others' actions are weighted by the
    truncated ratio of that policy to the behaviour. Past and future are not corrected, and what the
    caps leave is bias towards the behaviour. With the baseline ``ValueHeadBaseline`` the advantages
    are GAE(lam).

    Args:
        clip: How far the probability of an action may move from the epoch's start, as a ratio,
            before its gradient stops. Lower = more cautious, higher = more reuse.
        importance_cap: Largest weight of another's action, at least 1. Lower = less variance, more
            bias towards what was done then.
        lam: Weight of later steps, in [0, 1]. Lower = less variance, more bias from the values.
    """

    name = "ppo"

    def __init__(
        self, clip: float = 0.2, importance_cap: float = 2.0, lam: float = 0.95, **kwargs: Any
    ) -> None:
        super().__init__(advantage=Lambda(lam), weighting=Clipped(clip, importance_cap), **kwargs)


class VTraceActorCritic(Estimator):
    """V-trace values and truncated ratios (Espeholt et al. 2018, arXiv 1802.01561, section 4.2).

    Corrects present and future up to the caps, with a value head that learns the value of the
    present policy; the past is left as it was. What the caps leave: the gradient of a policy
    between the behaviour and the present one.

    Args:
        rho_cap: Largest ratio that weighs an action and its one-step error, above 0. Lower = less
            variance, more bias towards the behaviour.
        c_cap: Largest factor by which later errors are carried back. Lower = less variance.
    """

    name = "vtrace"

    def __init__(self, rho_cap: float = 1.0, c_cap: float = 1.0, **kwargs: Any) -> None:
        super().__init__(
            advantage=VTrace(rho_cap, c_cap),
            weighting=Truncated(rho_cap),
            value_target="current",
            **kwargs,
        )


class PerDecisionImportanceSampling(Estimator):
    """Untruncated per-decision importance sampling: unbiased, whoever acted.

    Precup, Sutton & Singh 2000; Jie & Abbeel 2010. Past, present and future are corrected
    entirely; undiscounted, the expected gradient of the batch's mean is exactly that of the present
    policy's mean return. Its variance grows with the product of all ratios: a reference, not a tool
    for long episodes.
    """

    name = "per_decision"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            advantage=PerDecision(),
            weighting=Cumulative(),
            loss_normalisation="constant",
            **kwargs,
        )
