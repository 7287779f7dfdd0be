"""Behaviour half: what an action is credited with, before the baseline is subtracted.

One of the three parts of an ``Estimator``: advantage, weighting, regularisers. Each says which
factors of a trajectory's probability it corrects when somebody else acted: that the state was
reached (*past*), that the action was taken (*present*: the weighting's part) and what was done
afterwards (*future*).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from retro_lightning.credit.objective import check_positive
from retro_lightning.credit.returns import (
    lambda_returns,
    n_step_returns,
    per_decision_returns,
    returns_to_go,
    vtrace,
)
from retro_lightning.credit.terms import CreditInputs


class Advantage(ABC):
    """What an action is credited with.

    Attributes:
        name: Short name for logs.
        needs_ratio: Whether it needs the behaviour's log-probabilities.
        needs_values: Whether it reads the value head, so that the value loss must not be off.
    """

    name: ClassVar[str]
    needs_ratio: ClassVar[bool] = False
    needs_values: bool = False

    @abstractmethod
    def returns(
        self, inputs: CreditInputs, log_ratio_BS: Tensor, gamma: float, after_B: Tensor
    ) -> Tensor:
        """Return that each action is credited with, detached.

        Args:
            inputs: The batch; its values must be read detached.
            log_ratio_BS: ``log pi - log mu``, detached, 0 where it is not to be corrected.
            gamma: Discount per step.
            after_B: Value after the last step; 0 where the episode really ended.

        Returns:
            ``returns_BS``, in units of return, 0 at padding.
        """


class ReturnToGo(Advantage):
    """All that was received from the action on (Monte Carlo).

    Unbiased for whoever acted. On another's trajectories the future is left as that one's.
    """

    name: ClassVar[str] = "return_to_go"

    def returns(
        self, inputs: CreditInputs, log_ratio_BS: Tensor, gamma: float, after_B: Tensor
    ) -> Tensor:
        """See ``Advantage``."""
        return returns_to_go(inputs.rewards_BS, inputs.steps_BS, gamma, after_B)


class NStep(Advantage):
    """The next ``n`` rewards and the value head's estimate of what follows them.

    The future beyond ``n`` steps is the value head's, whatever its target; that within is left as
    it was. Biased by the errors of the value head.

    Args:
        n: Rewards that are read before the value takes over, at least 1. Lower = less variance,
            more bias from the values.
    """

    name: ClassVar[str] = "n_step"
    needs_values = True

    def __init__(self, n: int = 3) -> None:
        if n < 1:
            raise ValueError(f"NStep: n is {n}; give a number of steps of at least 1")
        self.n = n

    def returns(
        self, inputs: CreditInputs, log_ratio_BS: Tensor, gamma: float, after_B: Tensor
    ) -> Tensor:
        """See ``Advantage``."""
        values_BS = inputs.values_BS.detach()
        return n_step_returns(inputs.rewards_BS, values_BS, inputs.steps_BS, gamma, self.n, after_B)


class Lambda(Advantage):
    """TD(lambda) return; with the value head as the baseline it is generalised advantage.

    As ``NStep``, mixed over all ``n`` with weights ``lam^(n-1)``.

    Args:
        lam: Weight of later steps, in [0, 1]. Lower = less variance, more bias from the values;
            1 = all that was received, without any value.
    """

    name: ClassVar[str] = "lambda"

    def __init__(self, lam: float = 0.95) -> None:
        if not 0.0 <= lam <= 1.0:
            raise ValueError(f"Lambda: lam is {lam}; give a number between 0 and 1")
        self.lam = lam
        self.needs_values = lam < 1.0

    def returns(
        self, inputs: CreditInputs, log_ratio_BS: Tensor, gamma: float, after_B: Tensor
    ) -> Tensor:
        """See ``Advantage``."""
        values_BS = inputs.values_BS.detach()
        return lambda_returns(
            inputs.rewards_BS, values_BS, inputs.steps_BS, gamma, self.lam, after_B
        )


class VTrace(Advantage):
    """Reward and V-trace value of the next state (Espeholt et al. 2018).

    Corrects the future, up to the caps: where a ratio exceeds ``rho_cap`` what follows is valued as
    that of a policy between the behaviour and the present one; ``c_cap`` costs no bias once the
    value head has converged. The past is left as it was.

    Args:
        rho_cap: Largest ratio that weighs a one-step error. Lower = closer to the behaviour's
            value, with less variance.
        c_cap: Largest factor by which later errors are carried back. Lower = less variance.
    """

    name: ClassVar[str] = "vtrace"
    needs_ratio: ClassVar[bool] = True
    needs_values = True

    def __init__(self, rho_cap: float = 1.0, c_cap: float = 1.0) -> None:
        check_positive("VTrace", rho_cap=rho_cap, c_cap=c_cap)
        self.rho_cap, self.c_cap = rho_cap, c_cap

    def returns(
        self, inputs: CreditInputs, log_ratio_BS: Tensor, gamma: float, after_B: Tensor
    ) -> Tensor:
        """See ``Advantage``."""
        return vtrace(
            inputs.rewards_BS,
            inputs.values_BS.detach(),
            log_ratio_BS,
            inputs.steps_BS,
            gamma,
            rho_cap=self.rho_cap,
            c_cap=self.c_cap,
            bootstrap_value_B=after_B,
        )[1]


class PerDecision(Advantage):
    """Rewards weighted by the ratios of the actions that led to them (per-decision importance).

    Corrects the future entirely, without a cap and without the value head; its variance grows with
    the product of the ratios.
    """

    name: ClassVar[str] = "per_decision"
    needs_ratio: ClassVar[bool] = True

    def returns(
        self, inputs: CreditInputs, log_ratio_BS: Tensor, gamma: float, after_B: Tensor
    ) -> Tensor:
        """See ``Advantage``."""
        return per_decision_returns(
            inputs.rewards_BS, log_ratio_BS, inputs.steps_BS, gamma, after_B
        )
