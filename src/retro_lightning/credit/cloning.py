"""Behaviour half: presets that imitate, and so need no probability of the behaviour."""

from __future__ import annotations

from retro_lightning.credit.compose import Estimator
from retro_lightning.credit.objective import check_cloning
from retro_lightning.credit.weightings import Exponential, Kept


class FilteredCloning(Estimator):
    """Imitates the trajectories that went well and ignores the others (filtered cloning, %BC).

    Chen et al. 2021 (arXiv 2106.01345), %BC. No policy gradient: what is imitated is chosen, not
    weighed, and it learns nothing from failures.

    Args:
        min_return: Least undiscounted return of a trajectory to be imitated, in the environment's
            units; None = exactly those that succeeded.
        value_coef: Weight of the value head's squared error, over all trajectories; 0 = the value
            head learns nothing.
        gamma: Discount per step, in [0, 1], of the returns that the value head learns.
    """

    name = "filtered_cloning"

    def __init__(
        self, min_return: float | None = None, value_coef: float = 0.5, gamma: float = 1.0
    ) -> None:
        super().__init__(weighting=Kept(min_return), value_coef=value_coef, gamma=gamma)


class AdvantageWeightedCloning(Estimator):
    """Imitates every trajectory, the better ones more: advantage-weighted regression.

    Peng et al. 2019 (arXiv 1910.00177). Its fixed point is the behaviour tilted by
    ``exp(A / temperature)``, with the behaviour's own advantages: past, present and future are left
    as they were, on purpose.

    Args:
        temperature: Advantage, in units of return, that makes a step count e times as much. Lower
            = imitate only the best, higher = imitate everything alike.
        max_weight: Largest weight of a step.
        value_coef: Weight of the value head's squared error; 0 = the value head learns nothing.
        gamma: Discount per step, in [0, 1]. Lower = credit reaches less far back.
    """

    name = "advantage_weighted_cloning"

    def __init__(
        self,
        temperature: float = 0.5,
        max_weight: float = 10.0,
        value_coef: float = 0.5,
        gamma: float = 1.0,
    ) -> None:
        check_cloning(self.name, temperature, max_weight)
        super().__init__(
            weighting=Exponential(temperature, max_weight), value_coef=value_coef, gamma=gamma
        )


class ReturnConditioned(Estimator):
    """Imitates every trajectory, whatever came of it, told beforehand what would.

    Chen et al. 2021 (arXiv 2106.01345), decision transformer, with the asked return as text in the
    prompt instead of a token of its own. The trajectories must say at every step what was received
    from there on (``retro_lightning.environments.goal_return``); a policy that is asked for much
    then does what led to much. No ratio, no advantage.

    Args:
        value_coef: Weight of the value head's squared error; 0 = the value head learns nothing.
            With the goal in the prompt the value is that of meeting it.
        gamma: Discount per step, in [0, 1], of the returns that the value head learns.
    """

    name = "return_conditioned"

    def __init__(self, value_coef: float = 0.5, gamma: float = 1.0) -> None:
        super().__init__(weighting=Kept(float("-inf")), value_coef=value_coef, gamma=gamma)
