"""Behaviour half: how good a policy would be, judged from trajectories that another one wrote.

All functions take whole trajectories, padded: shape [B, S] with a mask of steps; returns are
discounted sums of rewards from the first step on. The default is fitted Q evaluation, which needs
no probability of the behaviour (``fitted_q``); importance sampling and doubly robust estimates need
it, known and positive for every valid action. What rests on too few trajectories is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

LEAST_SAMPLE_SIZE = 20.0
"""Effective sample size below which an estimate is refused, in trajectories."""


class Refused(ValueError):
    """There is no estimate; the sentence says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Expected return of the policy that is judged, from the behaviour's trajectories.

    Attributes:
        value: The estimate, in units of return.
        low: Lower limit of its interval.
        high: Upper limit of its interval.
        sample_size: Effective number of trajectories that it rests on.
        method: How it was made; says so where the behaviour was itself estimated.
    """

    value: float
    low: float
    high: float
    sample_size: float
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratios:
    """What importance sampling needs to know of logged trajectories.

    Attributes:
        logprobs_BS: Log-probability of each action under the policy that is judged.
        behaviour_logprobs_BS: The same under the behaviour; NaN = unknown.
        supported_BS: The behaviour gave every valid action a positive probability.
        steps_BS: Mask of steps: true for a trajectory's first ``length`` places.
        rewards_BS: Reward received for each action.
        estimated: The behaviour's log-probabilities are those of a clone fitted to its actions.
            Their error adds to the estimate's and is not in its interval: the label says so.
    """

    logprobs_BS: Floats
    behaviour_logprobs_BS: Floats
    supported_BS: Mask
    steps_BS: Mask
    rewards_BS: Floats
    estimated: bool = False

    def __post_init__(self) -> None:
        """Refuse what importance sampling would answer wrongly.

        Raises:
            Refused: Naming the trajectory and the step.
        """
        for lacking_BS, reason in (
            (
                ~np.isfinite(self.behaviour_logprobs_BS),
                "the behaviour's log-probability is unknown: use fitted Q evaluation, or ask for "
                "an estimated behaviour",
            ),
            (
                ~self.supported_BS,
                "the behaviour never takes some valid actions, so that what they would bring is "
                "not in the data: use fitted Q evaluation",
            ),
        ):
            for row, step in np.argwhere(self.steps_BS & lacking_BS)[:1]:
                raise Refused(f"trajectory {row}, step {step}: {reason}")

    def cumulated(self) -> Floats:
        """``prod_{k<=s} pi/mu`` [B, S]; after the last step it stays what it was there."""
        log_BS = np.where(self.steps_BS, self.logprobs_BS - self.behaviour_logprobs_BS, 0.0)
        return np.asarray(np.exp(np.cumsum(log_BS, axis=1)))

    def method(self, name: str) -> str:
        """Name of a method, with the label of an estimated behaviour."""
        return f"{name} (behaviour estimated)" if self.estimated else name


def effective_sample_size(weights_B: Floats) -> float:
    """``(sum w)^2 / sum w^2`` (Kong 1992), in trajectories."""
    square = float((weights_B**2).sum())
    return float(weights_B.sum() ** 2 / square) if square > 0 else 0.0


def weighted_importance_sampling(
    ratios: Ratios, gamma: float, confidence: float = 0.95
) -> Estimate:
    """``sum_b w_b G_b / sum_b w_b`` with w the ratio of the whole trajectory.

    Precup et al. 2000, "Eligibility traces for off-policy policy evaluation", eq. 3. Biased towards
    the behaviour's return by a part that shrinks with the number of trajectories.

    Args:
        ratios: The logged trajectories.
        gamma: Discount per step, in [0, 1].
        confidence: Coverage of the interval, in (0, 1).

    Raises:
        Refused: If the weights are worth fewer than 20 trajectories.
    """
    weight_B = ratios.cumulated()[:, -1]
    size = enough(weight_B, "weighted importance sampling")
    returns_B = (_discounts(ratios.steps_BS, gamma) * ratios.rewards_BS).sum(axis=1)
    value = float((weight_B * returns_B).sum() / weight_B.sum())
    # Linearised: the error of a ratio of sums is that of the sum of w (G - value), over sum w.
    influence_B = weight_B * (returns_B - value) * len(weight_B) / weight_B.sum()
    return _interval(value, influence_B, size, ratios.method("weighted IS"), confidence)


def per_decision(
    ratios: Ratios, gamma: float, *, weighted: bool = True, confidence: float = 0.95
) -> Estimate:
    """Per-decision importance sampling: each reward is weighted by the ratios up to its action.

    Precup et al. 2000, eq. 4: ``mean_b sum_s gamma^s rho_{b,0:s} r_{b,s}``, unbiased; with
    ``weighted`` the weights of each step are divided by their mean over trajectories (Thomas 2015,
    "Safe reinforcement learning", section 3.8, CWPDIS): biased, consistent, of less variance.

    Args:
        ratios: The logged trajectories.
        gamma: Discount per step, in [0, 1].
        weighted: Normalise the weights of each step.
        confidence: Coverage of the interval, in (0, 1).

    Raises:
        Refused: If the weights are worth fewer than 20 trajectories.
    """
    zeros_BS = np.zeros_like(ratios.rewards_BS)
    name = "weighted per-decision IS" if weighted else "per-decision IS"
    return _corrected(ratios, zeros_BS, zeros_BS, gamma, weighted, name, confidence)


def doubly_robust(
    ratios: Ratios,
    q_BS: Floats,
    values_BS: Floats,
    gamma: float,
    *,
    weighted: bool = True,
    confidence: float = 0.95,
) -> Estimate:
    """An estimate of Q, corrected by importance sampling where it is wrong.

    ``mean_b V(s_0) + sum_s gamma^s rho_{0:s} (r_s + gamma V(s_{s+1}) - Q(s_s, a_s))`` (Jiang & Li
    2016, arXiv 1511.03722, eq. 10; weighted: Thomas & Brunskill 2016, arXiv 1604.00923, WDR).
    Unbiased, unweighted, for any Q that was not fitted to these same trajectories.

    Args:
        ratios: The logged trajectories.
        q_BS: Estimated Q of the action taken, under the policy that is judged.
        values_BS: Estimated value of the state before it: the mean of Q over the policy's actions.
        gamma: Discount per step, in [0, 1].
        weighted: Normalise the weights of each step.
        confidence: Coverage of the interval, in (0, 1).

    Raises:
        Refused: If the weights are worth fewer than 20 trajectories.
    """
    name = "weighted doubly robust" if weighted else "doubly robust"
    return _corrected(ratios, q_BS, values_BS, gamma, weighted, name, confidence)


def _corrected(
    ratios: Ratios,
    q_BS: Floats,
    values_BS: Floats,
    gamma: float,
    weighted: bool,
    name: str,
    confidence: float,
) -> Estimate:
    """Doubly robust estimate; with zeros for Q and V, importance sampling per decision."""
    rho_BS = ratios.cumulated()
    size = enough(rho_BS[:, -1], name)
    count = len(rho_BS)
    steps_BS = ratios.steps_BS
    # All sums stand over trajectories: an episode that is over has reward 0 and keeps its weight.
    scale_S = rho_BS.sum(axis=0) / count if weighted else np.ones(rho_BS.shape[1])
    weight_BS = rho_BS / scale_S
    next_BS = np.zeros_like(values_BS)
    next_BS[:, :-1] = np.where(steps_BS[:, 1:], values_BS[:, 1:], 0.0)
    errors_BS = ratios.rewards_BS + gamma * next_BS - q_BS
    terms_BS = _discounts(steps_BS, gamma) * np.where(steps_BS, errors_BS, 0.0)
    value = float((weight_BS * terms_BS).sum() / count + values_BS[:, 0].mean())
    # Linearised as in weighted importance sampling, step by step.
    centre_S = (weight_BS * terms_BS).mean(axis=0) if weighted else np.zeros(len(scale_S))
    influence_B = (weight_BS * (terms_BS - centre_S)).sum(axis=1) + values_BS[:, 0]
    return _interval(value, influence_B - influence_B.mean(), size, ratios.method(name), confidence)


def _discounts(steps_BS: Mask, gamma: float) -> Floats:
    return np.where(steps_BS, gamma ** np.arange(steps_BS.shape[1], dtype=np.float64), 0.0)


def enough(weights_B: Floats, name: str) -> float:
    """Effective sample size of weights.

    Args:
        weights_B: The weights of the trajectories.
        name: Of the method, for the message.

    Raises:
        Refused: If it is below 20.
    """
    size = effective_sample_size(weights_B)
    if size < LEAST_SAMPLE_SIZE:
        raise Refused(
            f"{name}: {len(weights_B)} trajectories are worth {size:.1f} after weighting, fewer "
            f"than {LEAST_SAMPLE_SIZE:.0f}: the policy is too far from the behaviour, or there are "
            "too few trajectories"
        )
    return size


def _interval(
    value: float, influence_B: Floats, size: float, method: str, confidence: float
) -> Estimate:
    """The estimate with a t-interval, whose degrees of freedom are the effective ones."""
    error = float(np.sqrt((influence_B**2).mean() / len(influence_B)))
    half = float(stdtrit(size - 1.0, 0.5 + confidence / 2)) * error
    return Estimate(
        value=value, low=value - half, high=value + half, sample_size=size, method=method
    )
