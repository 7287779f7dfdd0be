"""Off-policy evaluation against enumeration of a tiny decision process."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from retro_lightning.credit.fitted_q import fitted_q
from retro_lightning.credit.off_policy import (
    Estimate,
    Ratios,
    Refused,
    doubly_robust,
    effective_sample_size,
    per_decision,
    weighted_importance_sampling,
)

GAMMA = 0.9
STEPS = 3
# Two states, two actions. In state 0 action 1 ends the episode with reward 2; else action a leads
# to state a with reward 1 in state 1 and 0.25 in state 0. Behaviour and policy in units of 1/4.
BEHAVIOUR = {0: (Fraction(2, 4), Fraction(2, 4)), 1: (Fraction(1, 4), Fraction(3, 4))}
POLICY = {0: (Fraction(3, 4), Fraction(1, 4)), 1: (Fraction(2, 4), Fraction(2, 4))}


def _step(state: int, action: int) -> tuple[float, int | None]:
    """Reward and next state; None = over."""
    if state == 0 and action == 1:
        return 2.0, None
    return (1.0 if state == 1 else 0.25), action


def _episodes(start: int) -> list[list[tuple[int, int, float]]]:
    """All episodes of at most ``STEPS`` steps."""
    found: dict[tuple[Any, ...], list[tuple[int, int, float]]] = {}
    for actions in itertools.product((0, 1), repeat=STEPS):
        state: int | None = start
        episode: list[tuple[int, int, float]] = []
        for action in actions:
            if state is None:
                break
            reward, following = _step(state, action)
            episode.append((state, action, reward))
            state = following
        found[tuple(episode)] = episode
    return list(found.values())


def _probability(episode: list[tuple[int, int, float]], who: Any) -> Fraction:
    result = Fraction(1)
    for state, action, _ in episode:
        result *= who[state][action]
    return result


def _log() -> list[list[tuple[int, int, float]]]:
    """Every episode as often as the behaviour makes it in 64 attempts from each start."""
    return [
        episode
        for start in (0, 1)
        for episode in _episodes(start)
        for _ in range(int(64 * _probability(episode, BEHAVIOUR)))
    ]


def _truth() -> float:
    total = 0.0
    for start in (0, 1):
        for episode in _episodes(start):
            value = sum(GAMMA**s * reward for s, (_, _, reward) in enumerate(episode))
            total += float(_probability(episode, POLICY)) * value / 2
    return total


LOG, TRUTH = _log(), _truth()
STEPS_BS = np.array([[s < len(e) for s in range(STEPS)] for e in LOG])


def _table(value: Callable[[int, int, float, int], float]) -> Any:
    """[B, S] of a function of state, action, reward and number of the step."""
    table = np.zeros((len(LOG), STEPS))
    for b, episode in enumerate(LOG):
        for s, (state, action, reward) in enumerate(episode):
            table[b, s] = value(state, action, reward, s)
    return table


RATIOS = Ratios(
    logprobs_BS=_table(lambda s, a, r, n: np.log(float(POLICY[s][a]))),
    behaviour_logprobs_BS=_table(lambda s, a, r, n: np.log(float(BEHAVIOUR[s][a]))),
    supported_BS=np.ones_like(STEPS_BS),
    steps_BS=STEPS_BS,
    rewards_BS=_table(lambda s, a, r, n: r),
)


def _q(state: int, action: int, number: int) -> float:
    """The policy's true Q at a step of this number."""
    reward, following = _step(state, action)
    if following is None or number + 1 == STEPS:
        return reward
    return reward + GAMMA * _v(following, number + 1)


def _v(state: int, number: int) -> float:
    return sum(float(POLICY[state][a]) * _q(state, a, number) for a in (0, 1))


def test_the_log_is_the_behaviours_distribution() -> None:
    assert len(LOG) == 128
    behaviours = sum(
        GAMMA**s * reward for episode in LOG for s, (_, _, reward) in enumerate(episode)
    ) / len(LOG)
    assert abs(behaviours - TRUTH) > 0.05  # else nothing below would need correcting


def test_unweighted_estimates_are_exact_in_expectation() -> None:
    # The log is the behaviour's expectation itself, so an unbiased estimate is the truth.
    assert per_decision(RATIOS, GAMMA, weighted=False).value == pytest.approx(TRUTH)
    q, v = _table(lambda s, a, r, n: _q(s, a, n)), _table(lambda s, a, r, n: _v(s, n))
    assert doubly_robust(RATIOS, q, v, GAMMA, weighted=False).value == pytest.approx(TRUTH)
    # … for any Q, as long as V is its mean over the policy's actions.
    wrong_q = _table(lambda s, a, r, n: 3.0 * s - a + n)
    wrong_v = _table(
        lambda s, a, r, n: sum(float(POLICY[s][b]) * (3.0 * s - b + n) for b in (0, 1))
    )
    wrong = doubly_robust(RATIOS, wrong_q, wrong_v, GAMMA, weighted=False)
    assert wrong.value == pytest.approx(TRUTH)


def test_padding_is_never_read() -> None:
    q, v = _table(lambda s, a, r, n: _q(s, a, n)), _table(lambda s, a, r, n: _v(s, n))
    filled_q, filled_v = np.where(STEPS_BS, q, 99.0), np.where(STEPS_BS, v, 99.0)
    for weighted in (False, True):
        clean = doubly_robust(RATIOS, q, v, GAMMA, weighted=weighted)
        assert doubly_robust(RATIOS, filled_q, filled_v, GAMMA, weighted=weighted) == clean


def test_the_true_q_leaves_no_variance_but_that_of_the_start() -> None:
    q, v = _table(lambda s, a, r, n: _q(s, a, n)), _table(lambda s, a, r, n: _v(s, n))
    right = doubly_robust(RATIOS, q, v, GAMMA, weighted=False)
    plain = per_decision(RATIOS, GAMMA, weighted=False)
    assert right.high - right.low < (plain.high - plain.low) / 1.5
    # Only the two starts differ: each term is V(start), so the half width is t * std / sqrt(128).
    std = abs(_v(0, 0) - _v(1, 0)) / 2
    from scipy.stats import t

    half = t.ppf(0.975, right.sample_size - 1) * std / np.sqrt(128)
    assert right.high - right.value == pytest.approx(half, rel=1e-6)


def test_weighted_estimates_equal_naive_loops() -> None:
    ratio = [[float(POLICY[s][a] / BEHAVIOUR[s][a]) for s, a, _ in episode] for episode in LOG]
    whole = [float(np.prod(r)) for r in ratio]
    returns = [sum(GAMMA**s * r for s, (_, _, r) in enumerate(e)) for e in LOG]
    expected = sum(w * g for w, g in zip(whole, returns, strict=True)) / sum(whole)
    assert weighted_importance_sampling(RATIOS, GAMMA).value == pytest.approx(expected)
    total = 0.0
    for s in range(STEPS):
        up_to = [float(np.prod(r[: s + 1])) for r in ratio]  # over episodes too short as well
        rewards = [e[s][2] if s < len(e) else 0.0 for e in LOG]
        total += GAMMA**s * sum(w * r for w, r in zip(up_to, rewards, strict=True)) / sum(up_to)
    assert per_decision(RATIOS, GAMMA).value == pytest.approx(total)
    # On this log the mean weight of every step is 1, so weighting changes nothing.
    assert per_decision(RATIOS, GAMMA).value == pytest.approx(TRUTH)


def _features(number: int) -> tuple[Any, Any]:
    """One-hot features of (step, state, action), and their mean over the policy's actions."""
    taken = np.zeros((len(LOG), STEPS, STEPS * 4))
    mean = np.zeros_like(taken)
    for b, episode in enumerate(LOG):
        for s, (state, action, _) in enumerate(episode):
            taken[b, s, 4 * s + 2 * state + action] = 1.0
            for a in (0, 1):
                mean[b, s, 4 * s + 2 * state + a] = float(POLICY[state][a])
    return taken, mean


def test_fitted_q_is_exact_with_features_that_tell_everything_apart() -> None:
    taken, mean = _features(0)
    estimate, weights = fitted_q(
        taken,
        mean,
        RATIOS.rewards_BS,
        STEPS_BS,
        GAMMA,
        ridge=1e-12,
        rng=np.random.default_rng(0),
    )
    assert estimate.value == pytest.approx(TRUTH, abs=1e-6)
    for s, state, action in itertools.product(range(STEPS), (0, 1), (0, 1)):
        if taken[:, s, 4 * s + 2 * state + action].any():
            assert weights[4 * s + 2 * state + action] == pytest.approx(_q(state, action, s))
    assert estimate.low < TRUTH < estimate.high
    assert estimate.method == "fitted Q"


ESTIMATORS: dict[str, Callable[[Ratios], Estimate]] = {
    "weighted": lambda ratios: weighted_importance_sampling(ratios, GAMMA),
    "per-decision": lambda ratios: per_decision(ratios, GAMMA, weighted=False),
    "weighted-per-decision": lambda ratios: per_decision(ratios, GAMMA),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_intervals_cover_the_truth_as_often_as_they_say(name: str) -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        rows = rng.integers(len(LOG), size=100)
        sample = replace(
            RATIOS,
            **{
                field: getattr(RATIOS, field)[rows]
                for field in (
                    "logprobs_BS",
                    "behaviour_logprobs_BS",
                    "supported_BS",
                    "steps_BS",
                    "rewards_BS",
                )
            },
        )
        estimate = ESTIMATORS[name](sample)
        covered += estimate.low <= TRUTH <= estimate.high
    # 95 % of 400 with a standard error of 1.1 points; small-sample bias may cost some more.
    assert 0.91 <= covered / 400 <= 0.99


def test_what_rests_on_too_little_is_refused() -> None:
    few = {
        field: getattr(RATIOS, field)[:30]
        for field in (
            "logprobs_BS",
            "behaviour_logprobs_BS",
            "supported_BS",
            "steps_BS",
            "rewards_BS",
        )
    }
    few["logprobs_BS"] = few["logprobs_BS"].copy()
    few["logprobs_BS"][5, 0] += 6.0  # one trajectory outweighs all others
    for estimate in ESTIMATORS.values():
        with pytest.raises(Refused, match=r"30 trajectories are worth 1\.\d after weighting"):
            estimate(Ratios(**few))
    taken, mean = _features(0)
    with pytest.raises(Refused, match=r"19 trajectories are worth 19\.0"):
        fitted_q(
            taken[:19],
            mean[:19],
            RATIOS.rewards_BS[:19],
            STEPS_BS[:19],
            GAMMA,
            rng=np.random.default_rng(0),
        )


def test_unknown_and_partial_behaviours_are_refused_by_step() -> None:
    unknown = RATIOS.behaviour_logprobs_BS.copy()
    unknown[3, 0] = np.nan
    with pytest.raises(Refused, match=r"trajectory 3, step 0: .* unknown: use fitted Q"):
        replace(RATIOS, behaviour_logprobs_BS=unknown)
    partial = RATIOS.supported_BS.copy()
    partial[2, 0] = False
    with pytest.raises(Refused, match=r"trajectory 2, step 0: .* never takes some valid actions"):
        replace(RATIOS, supported_BS=partial)
    at_padding = np.where(STEPS_BS, RATIOS.behaviour_logprobs_BS, np.nan)
    assert replace(RATIOS, behaviour_logprobs_BS=at_padding)  # padding is never read


def test_an_estimated_behaviour_is_labelled() -> None:
    cloned = replace(RATIOS, estimated=True)
    for estimate in ESTIMATORS.values():
        assert estimate(cloned).method.endswith("(behaviour estimated)")
        assert "estimated" not in estimate(RATIOS).method


def test_effective_sample_size_by_hand() -> None:
    assert effective_sample_size(np.ones(7)) == pytest.approx(7)
    assert effective_sample_size(np.array([3.0, 1.0])) == pytest.approx(16 / 10)
    assert effective_sample_size(np.zeros(3)) == 0
