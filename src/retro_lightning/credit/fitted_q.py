"""Behaviour half: fitted Q evaluation with a linear Q, the default of off-policy evaluation."""

from __future__ import annotations

import numpy as np

from retro_lightning.credit.off_policy import Estimate, Floats, Mask, enough

_REFITS = 200


def fitted_q(
    features_BSF: Floats,
    policy_features_BSF: Floats,
    rewards_BS: Floats,
    steps_BS: Mask,
    gamma: float,
    *,
    ridge: float = 1e-3,
    rng: np.random.Generator,
    confidence: float = 0.95,
) -> tuple[Estimate, Floats]:
    """Fitted Q evaluation (Le et al. 2019, arXiv 1903.08738, algorithm 3) with linear Q.

    ``Q(s, a) = features(s, a) . w``, fitted ``S`` times to ``r + gamma mean_{a'~pi} Q(s', a')``,
    once for each step that an episode can have. Needs no probability of the behaviour, but that the
    data contain what the policy would do, and features that can tell good from bad: neither can be
    seen from inside, so its interval covers chance alone.

    Args:
        features_BSF: Features of the state and of the action taken there.
        policy_features_BSF: Their mean over the actions of the policy that is judged, in the same
            state.
        rewards_BS: Rewards.
        steps_BS: Mask of steps. After the last step of a trajectory nothing is to come.
        gamma: Discount per step, in [0, 1].
        ridge: Penalty on the weights, relative to the mean square of the features.
        rng: Draws the 200 resamples of trajectories whose spread gives the interval.
        confidence: Coverage of the interval, in (0, 1).

    Returns:
        The estimate, and the weights of Q [F].

    Raises:
        Refused: If there are fewer than 20 trajectories.
    """
    count = len(steps_BS)
    enough(np.ones(count), "fitted Q evaluation")
    masked_BSF = np.where(steps_BS[..., None], features_BSF, 0.0)
    next_BSF = np.zeros_like(masked_BSF)
    next_BSF[:, :-1] = np.where(steps_BS[:, 1:, None], policy_features_BSF[:, 1:], 0.0)
    # Sums of each trajectory: a resample of trajectories is a weighted sum of these.
    square_BFF = np.einsum("bsf,bsg->bfg", masked_BSF, masked_BSF)
    onward_BFF = gamma * np.einsum("bsf,bsg->bfg", masked_BSF, next_BSF)
    reward_BF = np.einsum("bsf,bs->bf", masked_BSF, rewards_BS)
    start_BF = policy_features_BSF[:, 0]
    penalty = ridge * np.trace(square_BFF.sum(axis=0)) / square_BFF.shape[1]

    def fitted(times_B: Floats) -> Floats:
        square_FF = np.tensordot(times_B, square_BFF, 1) + penalty * np.eye(square_BFF.shape[1])
        inverse_FF = np.linalg.inv(square_FF)
        onward_FF = inverse_FF @ np.tensordot(times_B, onward_BFF, 1)
        reward_F = inverse_FF @ (times_B @ reward_BF)
        weights_F = np.zeros(len(reward_F))
        for _ in range(steps_BS.shape[1]):
            weights_F = reward_F + onward_FF @ weights_F
        return np.asarray(weights_F)

    weights_F = fitted(np.ones(count))
    value = float((start_BF @ weights_F).mean())
    spread = []
    for _ in range(_REFITS):
        times_B = rng.multinomial(count, np.full(count, 1.0 / count)).astype(np.float64)
        spread.append(float(times_B @ (start_BF @ fitted(times_B))) / count)
    low, high = np.quantile(spread, [0.5 - confidence / 2, 0.5 + confidence / 2])
    estimate = Estimate(
        value=value, low=float(low), high=float(high), sample_size=float(count), method="fitted Q"
    )
    return estimate, weights_F
