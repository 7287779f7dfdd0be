"""The objectives that measured results rest on give the same numbers as when they were measured."""

from __future__ import annotations

import pytest
import torch

from retro_lightning.credit.estimators import (
    AdvantageWeightedCloning,
    CreditInputs,
    FilteredCloning,
    Objective,
    PolicyGradient,
)


def fixed_inputs() -> CreditInputs:
    """A batch from sines alone, so that no random generator can change it."""
    lengths = torch.tensor([3, 5, 1, 4, 2, 5, 3, 4])
    B, S = 8, 5
    steps_BS = torch.arange(S)[None, :] < lengths[:, None]

    def wave(rate: float, *shape: int) -> torch.Tensor:
        count = torch.Size(shape).numel()
        return torch.sin(rate * torch.arange(1, count + 1, dtype=torch.float64)).view(*shape)

    logprobs_BS = torch.where(steps_BS, -wave(0.7, B, S).abs() - 0.1, 0.0)
    behaviour_BS = logprobs_BS + 0.5 * wave(1.3, B, S)
    kind_B = torch.arange(B) % 4  # 0 fresh, 1 stale, 2 expert (log-prob 0), 3 unknown
    behaviour_BS[kind_B == 2] = 0.0
    behaviour_BS[kind_B == 3] = torch.nan
    behaviour_BS[~steps_BS] = torch.nan
    return CreditInputs(
        logprobs_BS=logprobs_BS.requires_grad_(),
        entropies_BS=wave(2.1, B, S).abs().requires_grad_(),
        values_BS=wave(0.9, B, S).requires_grad_(),
        steps_BS=steps_BS,
        rewards_BS=torch.where(steps_BS, wave(1.9, B, S), 0.0),
        behaviour_logprobs_BS=behaviour_BS,
        baseline_BS=wave(0.4, B, S),
        fresh_B=kind_B == 0,
        supported_BS=(kind_B < 2)[:, None].expand(B, S),
        bootstrap_B=torch.arange(B) % 3 == 0,
        final_values_B=wave(0.3, B),
        success_B=torch.arange(B) % 2 == 0,
        weight_B=wave(0.6, B).abs() + 0.5,
        value_weight_B=wave(0.8, B).abs() + 0.5,
    )


RECORDED: list[tuple[Objective, list[float]]] = [
    (
        PolicyGradient(),
        [
            1.7659761856503304,
            -22.767585644407742,
            0.3878668188528963,
            -0.25103005657119776,
            5.653585762207231e-06,
            3.3525166077676287,
            0.05535998975732698,
        ],
    ),
    (
        PolicyGradient(value_coef=0.05),
        [
            1.226263766047111,
            -22.767585644407742,
            0.3878668188528963,
            -0.25103005657119776,
            5.653585762207231e-06,
            0.3352516607767628,
            0.00055359989757327,
        ],
    ),
    (
        PolicyGradient(gamma=0.9, normalise_advantages=False, cloning_coef=0.3),
        [
            1.072809710005885,
            -8.058470637346165,
            0.04822542338751947,
            -0.25103005657119776,
            5.653585762207231e-06,
            3.448816420328495,
            0.05465436713520318,
        ],
    ),
    (
        FilteredCloning(value_coef=0.05),
        [
            0.35701531043809,
            -6.734800491789226,
            0.016513508443622118,
            0.3352516607767628,
            0.00055359989757327,
        ],
    ),
    (
        FilteredCloning(min_return=0.1, gamma=0.9),
        [
            0.6434827487229303,
            -0.600456442209635,
            0.002979735032983907,
            3.448816420328495,
            0.05465436713520318,
        ],
    ),
    (
        AdvantageWeightedCloning(gamma=0.9),
        [
            2.3465804293413184,
            -46.58143934898299,
            0.6675757956180053,
            3.448816420328495,
            0.05465436713520318,
        ],
    ),
]
"""Objectives, and what ``numbers`` gave for them at 0.1.0, of which the README reports."""


def numbers(objective: Objective) -> list[float]:
    """The loss, and of each leaf's gradient the sum and the sum of squares."""
    inputs = fixed_inputs()
    loss = objective(inputs, normaliser=27.0).loss
    leaves = [inputs.logprobs_BS, inputs.entropies_BS, inputs.values_BS]
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    result = [loss.item()]
    for gradient in gradients:
        if gradient is not None:
            weighted = gradient * torch.arange(1, 41, dtype=torch.float64).view(8, 5)
            result += [weighted.sum().item(), gradient.square().sum().item()]
    return result


@pytest.mark.parametrize(("objective", "recorded"), RECORDED, ids=lambda x: getattr(x, "name", ""))
def test_loss_and_gradient_are_those_of_the_measured_runs(
    objective: Objective, recorded: list[float]
) -> None:
    # Room for another order of summation in another release of PyTorch, and for nothing else.
    assert numbers(objective) == pytest.approx(recorded, rel=1e-13, abs=0.0)
