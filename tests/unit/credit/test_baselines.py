"""Baselines: against naive means, independent of their own row, and unbiased by enumeration."""

from __future__ import annotations

import dataclasses
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
    BatchMean,
    Constant,
    MovingAverage,
    NoBaseline,
    PerTask,
    ValueHeadBaseline,
)
from retro_lightning.credit.diagnostics import zero_advantage_groups
from retro_lightning.credit.estimators import CreditInputs, PolicyGradient
from retro_lightning.credit.group_baselines import (
    AnchorStates,
    GroupMean,
    LeaveOneOut,
)
from retro_lightning.credit.scales import GroupScale, PerTaskScale, ReturnScale
from retro_lightning.credit.statistics import Outcomes
from retro_lightning.trajectory import Step, Task, Trajectory


@dataclass
class Store:
    """Columns of a made-up store."""

    returns: npt.NDArray[np.float64]
    task_id: npt.NDArray[np.int32]
    family: npt.NDArray[np.int32]
    faulted: npt.NDArray[np.bool_]

    @property
    def policy_version(self) -> npt.NDArray[np.int64]:
        return np.zeros(len(self.returns), dtype=np.int64)

    behaviour = run = policy_version


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
@pytest.mark.parametrize("make", [PerTask, MovingAverage, BatchMean, LeaveOneOut])
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


def as_trajectory(path: tuple[int, int]) -> Trajectory:
    """A path as a record; what is seen is the state."""
    states = ("start", f"after {path[0]}")
    rewards = path_terms(some_logits(), path)[1].tolist()
    return Trajectory(
        task=Task(task_id="tiny", family="tiny", instruction="do", seed=0, split="train"),
        steps=tuple(
            Step(observation=state, valid_actions=("0", "1"), action=str(action), reward=reward)
            for state, action, reward in zip(states, path, rewards, strict=True)
        ),
        final_observation="end",
        final_valid_actions=(),
        terminated=True,
        truncated=False,
        truncation=None,
        success=False,
        source="rollout",
        behaviour_id="policy",
        run="test",
        attempt=0,
    )


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
    baseline.attach(lambda rows: [as_trajectory(paths[row]) for row in rows])
    baseline.update(
        Store(
            returns=rewards_BS.sum(dim=1).numpy(),
            task_id=np.zeros(B, dtype=np.int32) if baseline.needs_groups else np.array([0, 0, 1]),
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
    "baseline",
    [
        NoBaseline(),
        Constant(0.4),
        MovingAverage(0.8),
        PerTask(1.5),
        BatchMean(),
        LeaveOneOut(),
        AnchorStates(),
        ValueHeadBaseline(),
    ],
    ids=type,
)
def test_a_baseline_leaves_the_expected_gradient_unbiased(baseline: Baseline) -> None:
    logits = some_logits()
    torch.testing.assert_close(expected_estimate(logits, baseline), true_gradient(logits))


def test_the_enumeration_sees_a_baseline_that_contains_its_own_trajectory() -> None:
    logits = some_logits()
    biased, exact = expected_estimate(logits, MeanWithItself()), true_gradient(logits)
    assert (biased - exact).abs().max() > 0.01


def test_the_group_mean_scales_the_expected_gradient_by_exactly_its_stated_factor() -> None:
    logits = some_logits()
    n = TRAJECTORIES  # all in one group
    expected = (n - 1) / n * true_gradient(logits)
    torch.testing.assert_close(expected_estimate(logits, GroupMean()), expected)


@given(stores())
def test_leave_one_out_equals_naive_means(store: Store) -> None:
    result = baselines_of(LeaveOneOut(), store)
    for row in range(len(store.returns)):
        rest = others(store, row)
        group = [j for j in rest if store.task_id[j] == store.task_id[row]]
        wide = [store.returns[j] for j in (group or rest)]
        assert result[row] == pytest.approx(sum(wide) / len(wide) if wide else 0.0, abs=1e-9)


def test_groups_end_where_the_policy_version_does() -> None:
    class Versions(Store):
        @property
        def policy_version(self) -> npt.NDArray[np.int64]:
            return np.array([5, 5, 9, 9])

    zeros = np.zeros(4, dtype=np.int32)
    store = Versions(np.array([1.0, 0.0, 4.0, 2.0]), zeros, zeros, np.zeros(4, dtype=np.bool_))
    # Each has one other attempt of its own version; the means are of the two of a version.
    assert baselines_of(LeaveOneOut(), store).tolist() == [0.0, 1.0, 2.0, 4.0]
    assert baselines_of(GroupMean(), store).tolist() == [0.5, 0.5, 3.0, 3.0]
    scale = GroupScale()
    scale.update(store)
    # Deviations of (1, 0) and (4, 2) from their means are 0.5 and 1.
    assert scale(torch.arange(4)).tolist() == [0.5, 0.5, 1.0, 1.0]


@given(stores(), st.floats(0.1, 5))
def test_per_task_scale_equals_naive_shrunk_deviation(store: Store, prior: float) -> None:
    scale = PerTaskScale(prior, floor=1e-3)
    scale.update(store)
    result = scale(torch.arange(len(store.returns)))
    for row in range(len(store.returns)):
        rest = others(store, row)
        family = [store.returns[j] for j in rest if store.family[j] == store.family[row]]
        same = [store.returns[j] for j in rest if store.task_id[j] == store.task_id[row]]
        wide, narrow = (float(np.var(x)) if x else 0.0 for x in (family, same))
        expected = max(1e-3, ((len(same) * narrow + prior * wide) / (len(same) + prior)) ** 0.5)
        assert result[row].item() == pytest.approx(expected, rel=1e-4)


def test_scales_refuse_unknown_rows_and_impossible_floors() -> None:
    scale: ReturnScale
    for scale in (PerTaskScale(), GroupScale()):
        with pytest.raises(ValueError, match=r"row 0.*0 trajectories"):
            scale(torch.tensor([0]))
    with pytest.raises(ValueError, match="floor is 0"):
        PerTaskScale(floor=0.0)
    with pytest.raises(ValueError, match="floor is nan"):
        GroupScale(floor=float("nan"))
    with pytest.raises(ValueError, match="value is inf"):
        Constant(float("inf"))


def test_a_batch_mean_leaves_repetitions_out() -> None:
    baseline = BatchMean()
    zeros = np.zeros(3, dtype=np.int32)
    baseline.update(Store(np.array([1.0, 2.0, 4.0]), zeros, zeros, np.zeros(3, dtype=np.bool_)))
    result_BS = baseline(torch.tensor([0, 0, 1, 2]), torch.zeros(4, 1))
    # Row 0, twice: (2 + 4) / 2 = 3. Row 1: (1 + 1 + 4) / 3 = 2. Row 2: (1 + 1 + 2) / 3.
    torch.testing.assert_close(result_BS[:, 0], torch.tensor([3.0, 3.0, 2.0, 4 / 3]))


def anchored(
    paths: list[tuple[int, int]], records: list[Trajectory]
) -> tuple[torch.Tensor, AnchorStates]:
    baseline = AnchorStates()
    n = len(paths)
    zeros = np.zeros(n, dtype=np.int32)
    baseline.attach(lambda rows: [records[row] for row in rows])
    returns = np.array([t.total_return for t in records])
    baseline.update(Store(returns, zeros, zeros, np.zeros(n, dtype=np.bool_)))
    return baseline(torch.arange(n), torch.zeros(n, 2, dtype=torch.float64)), baseline


def test_anchor_states_by_hand() -> None:
    paths = [(0, 1), (0, 0), (1, 1)]
    result_BS, baseline = anchored(paths, [as_trajectory(path) for path in paths])
    # Returns: 0.2 - 0.5 = -0.3; 0.2 + 1 = 1.2; 0 + 2 = 2. At the start all three meet: the others'
    # means are 1.6, 0.85 and 0.45. After action 0 the first two meet: 1 and -0.5; the third is
    # alone there and gets its leave-one-out mean again.
    expected = torch.tensor([[1.6, 1.0], [0.85, -0.5], [0.45, 0.45]], dtype=torch.float64)
    torch.testing.assert_close(result_BS, expected)
    assert baseline.anchored_share == pytest.approx(5 / 6)
    assert baseline.aliased_share == 0


def test_an_anchor_at_which_one_action_led_to_two_outcomes_is_not_trusted() -> None:
    paths = [(0, 1), (0, 0), (1, 1)]
    records = [as_trajectory(path) for path in paths]
    first = records[1].steps[0]
    told = dataclasses.replace(first, reward=0.9)  # the second trajectory contradicts the first
    records[1] = dataclasses.replace(records[1], steps=(told, *records[1].steps[1:]))
    result_BS, baseline = anchored(paths, records)
    # Only the third trajectory sees both contradicting visits, at the start: it falls back to the
    # mean of the others' returns, (-0.3 + 1.9) / 2 = 0.8, which is what it would be anyway; the
    # share tells.
    assert result_BS[2, 0].item() == pytest.approx(0.8)
    assert baseline.aliased_share == pytest.approx(1 / 6)


def test_anchor_states_must_be_told_how_to_read() -> None:
    baseline = AnchorStates()
    zeros = np.zeros(1, dtype=np.int32)
    baseline.update(Store(np.zeros(1), zeros, zeros, np.zeros(1, dtype=np.bool_)))
    with pytest.raises(RuntimeError, match="attach"):
        baseline(torch.tensor([0]), torch.zeros(1, 1))
    with pytest.raises(ValueError, match="gamma is 2"):
        AnchorStates(gamma=2.0)


def test_share_of_groups_that_teach_nothing() -> None:
    advantages_BS = torch.tensor([[0.0, 9.0], [0.0, 0.0], [0.1, 0.0], [0.0, 0.0]])
    steps_BS = torch.tensor([[True, False], [True, True], [True, True], [True, True]])
    # Groups 7 (rows 0 and 1: nothing but padding differs from 0) and 9 (row 2 does) and 11.
    share = zero_advantage_groups(advantages_BS, steps_BS, torch.tensor([7, 7, 9, 11]))
    assert share.item() == pytest.approx(2 / 3)
