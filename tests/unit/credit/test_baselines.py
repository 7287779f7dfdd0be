"""Baselines: against naive means, independent of their own row, and unbiased by enumeration."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retro_lightning.credit.baselines import (
    Baseline,
    MovingAverage,
    NoBaseline,
    Outcomes,
    PerTask,
    ValueHeadBaseline,
)
from retro_lightning.credit.estimators import CreditInputs, PolicyGradient


@dataclass
class Store:
    """Columns of a made-up store."""

    returns: npt.NDArray[np.float64]
    task_id: npt.NDArray[np.int32]
    family: npt.NDArray[np.int32]
    faulted: npt.NDArray[np.bool_]


@st.composite
def stores(draw: st.DrawFn) -> Store:
    n = draw(st.integers(1, 10))
    tasks = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    return Store(
        returns=np.array(draw(st.lists(st.floats(-2, 2), min_size=n, max_size=n))),
        task_id=np.array(tasks, dtype=np.int32),
        family=np.array(tasks, dtype=np.int32) // 2,
        faulted=np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n))),
    )


def baselines_of(baseline: Baseline, store: Outcomes) -> npt.NDArray[np.float64]:
    baseline.update(store)
    n = len(store.returns)
    result_BS = baseline(torch.arange(n), torch.zeros(n, 2, dtype=torch.float64))
    assert torch.equal(result_BS[:, 0], result_BS[:, 1])
    return result_BS[:, 0].numpy()


def others(store: Store, row: int) -> list[int]:
    return [j for j in range(len(store.returns)) if j != row and not store.faulted[j]]


@given(stores(), st.floats(0.1, 5))
def test_per_task_equals_naive_shrunk_mean(store: Store, prior: float) -> None:
    result = baselines_of(PerTask(prior), store)
    for row in range(len(store.returns)):
        rest = others(store, row)
        family = [j for j in rest if store.family[j] == store.family[row]]
        same = [store.returns[j] for j in rest if store.task_id[j] == store.task_id[row]]
        wide = [store.returns[j] for j in (family or rest)]
        mean = sum(wide) / len(wide) if wide else 0.0
        expected = (sum(same) + prior * mean) / (len(same) + prior)
        assert result[row] == pytest.approx(expected, abs=1e-9)


@given(stores(), st.floats(0.3, 1))
def test_moving_average_equals_naive_weighted_mean(store: Store, decay: float) -> None:
    result = baselines_of(MovingAverage(decay), store)
    usable = [j for j in range(len(store.returns)) if not store.faulted[j]]
    for row in range(len(store.returns)):
        # Age = number of usable trajectories published after it.
        weights = {j: decay ** sum(k > j for k in usable) for j in usable if j != row}
        total = sum(weights.values())
        mean = sum(w * store.returns[j] for j, w in weights.items()) / total if total else 0.0
        assert result[row] == pytest.approx(mean, abs=1e-6)


@given(stores(), st.data())
@pytest.mark.parametrize("make", [PerTask, MovingAverage])
def test_a_row_does_not_move_its_own_baseline(
    make: type[Baseline], store: Store, data: st.DataObject
) -> None:
    row = data.draw(st.integers(0, len(store.returns) - 1))
    before = baselines_of(make(), store)[row]
    store.returns[row] += 10.0
    assert baselines_of(make(), store)[row] == pytest.approx(before, abs=1e-6)


def test_rows_pick_their_own_baseline() -> None:
    store = Store(
        returns=np.array([1.0, 0.0, 1.0]),
        task_id=np.array([0, 0, 1]),
        family=np.array([0, 0, 0]),
        faulted=np.zeros(3, dtype=np.bool_),
    )
    baseline = PerTask(prior_weight=1.0)
    baseline.update(store)
    result_BS = baseline(torch.tensor([2, 0]), torch.zeros(2, 3))
    # Row 2: alone on its task; family mean of rows 0 and 1 = 0.5. Row 0: task mean of the others
    # 0 (one attempt), family mean (0 + 1) / 2 = 0.5; (0 + 1 * 0.5) / (1 + 1) = 0.25.
    torch.testing.assert_close(result_BS, torch.tensor([[0.5] * 3, [0.25] * 3]))
    assert result_BS.dtype == torch.float32


def test_rows_the_last_update_did_not_see_are_refused() -> None:
    with pytest.raises(ValueError, match=r"row 0.*0 trajectories"):
        PerTask()(torch.tensor([0]), torch.zeros(1, 1))


@pytest.mark.parametrize("decay", [0.0, 1.5, float("nan")])
def test_impossible_arguments_are_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="decay is"):
        MovingAverage(decay)
    with pytest.raises(ValueError, match="prior_weight is"):
        PerTask(-decay)


def test_value_head_baseline_has_no_gradient() -> None:
    values_BS = torch.ones(1, 2, requires_grad=True)
    assert not ValueHeadBaseline()(torch.tensor([0]), values_BS).requires_grad
    assert (NoBaseline()(torch.tensor([0]), values_BS) == 0).all()


# ---- a tiny decision process: two steps of two actions; the second state is the first action ----
REWARDS = torch.tensor([[0.2, 0.0], [1.0, -0.5], [0.0, 2.0]], dtype=torch.float64)  # state, action
STATE_VALUES = torch.tensor([0.7, -0.3, 1.1], dtype=torch.float64)  # any function of the state
PATHS = list(itertools.product((0, 1), repeat=2))
TRAJECTORIES = 3


def path_terms(logits: torch.Tensor, path: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and reward of both steps of a path."""
    states = torch.tensor([0, 1 + path[0]])
    actions = torch.tensor(path)
    return logits.log_softmax(dim=1)[states, actions], REWARDS[states, actions]


def true_gradient(logits: torch.Tensor) -> torch.Tensor:
    """Gradient of the expected return, summed over all paths."""
    objective = torch.zeros((), dtype=torch.float64)
    for path in PATHS:
        logprobs, rewards = path_terms(logits, path)
        objective = objective + logprobs.sum().exp() * rewards.sum()
    return torch.autograd.grad(objective, logits)[0]


def estimate(logits: torch.Tensor, paths: tuple[tuple[int, int], ...], baseline: Baseline):  # type: ignore[no-untyped-def]
    """Policy gradient estimated from some trajectories, which are all there is in the store."""
    terms = [path_terms(logits, path) for path in paths]
    logprobs_BS = torch.stack([logprobs for logprobs, _ in terms])
    rewards_BS = torch.stack([rewards for _, rewards in terms])
    B = len(paths)
    baseline.update(
        Store(
            returns=rewards_BS.sum(dim=1).numpy(),
            task_id=np.array([0, 0, 1]),
            family=np.zeros(B, dtype=np.int32),
            faulted=np.zeros(B, dtype=np.bool_),
        )
    )
    values_BS = STATE_VALUES[torch.tensor([[0, 1 + path[0]] for path in paths])]
    zeros_B = torch.zeros(B, dtype=torch.float64)
    inputs = CreditInputs(
        logprobs_BS=logprobs_BS,
        entropies_BS=torch.zeros_like(rewards_BS),
        values_BS=values_BS,
        steps_BS=torch.ones(B, 2, dtype=torch.bool),
        rewards_BS=rewards_BS,
        behaviour_logprobs_BS=logprobs_BS.detach(),
        baseline_BS=baseline(torch.arange(B), values_BS),
        fresh_B=torch.ones(B, dtype=torch.bool),
        supported_BS=torch.ones(B, 2, dtype=torch.bool),
        bootstrap_B=torch.zeros(B, dtype=torch.bool),
        final_values_B=zeros_B,
        success_B=torch.zeros(B, dtype=torch.bool),
        weight_B=torch.ones_like(zeros_B),
    )
    objective = PolicyGradient(normalise_advantages=False, entropy_coef=0.0, value_coef=0.0)
    loss = objective(inputs, normaliser=float(B)).loss
    return torch.autograd.grad(-loss, logits)[0]


def expected_estimate(logits: torch.Tensor, baseline: Baseline) -> torch.Tensor:
    """Expectation of the estimate over everything that three trajectories can be (64 stores)."""
    total = torch.zeros_like(logits)
    for paths in itertools.product(PATHS, repeat=TRAJECTORIES):
        chance = torch.stack([path_terms(logits, p)[0].sum() for p in paths]).sum().exp()
        total = total + chance.detach() * estimate(logits, paths, baseline)
    return total


class MeanWithItself(NoBaseline):
    """What a baseline must not be: the mean return of all, the trajectory at hand included."""

    def update(self, columns: Outcomes) -> None:
        self.mean = float(columns.returns.mean())

    def __call__(self, rows_B: torch.Tensor, values_BS: torch.Tensor) -> torch.Tensor:
        return torch.full_like(values_BS, self.mean)


def some_logits() -> torch.Tensor:
    return torch.tensor(
        [[0.3, -0.4], [0.1, 0.6], [-0.7, 0.2]], dtype=torch.float64
    ).requires_grad_()


@pytest.mark.parametrize(
    "baseline", [NoBaseline(), MovingAverage(0.8), PerTask(1.5), ValueHeadBaseline()], ids=type
)
def test_a_baseline_leaves_the_expected_gradient_unbiased(baseline: Baseline) -> None:
    logits = some_logits()
    torch.testing.assert_close(expected_estimate(logits, baseline), true_gradient(logits))


def test_the_enumeration_sees_a_baseline_that_contains_its_own_trajectory() -> None:
    logits = some_logits()
    biased, exact = expected_estimate(logits, MeanWithItself()), true_gradient(logits)
    assert (biased - exact).abs().max() > 0.01
