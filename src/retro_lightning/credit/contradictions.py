"""Behaviour half: which parts of an estimator contradict each other, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from retro_lightning.credit.advantages import ReturnToGo
from retro_lightning.credit.weightings import Clipped

if TYPE_CHECKING:
    from retro_lightning.credit.compose import Estimator


def contradiction(estimator: Estimator) -> str | None:
    """The first contradiction among an estimator's parts, with the remedy; None = there is none."""
    weighting, advantage = estimator.weighting, estimator.advantage
    weighs, credits = type(weighting).__name__, type(advantage).__name__
    if estimator.ratio_level != "action" and not isinstance(weighting, Clipped):
        return (
            f"ratio_level {estimator.ratio_level} is known to the weighting Clipped alone, for "
            "only the policy at the epoch's start can be asked again; "
            f"{weighs} takes ratios of whole actions: set ratio_level: action"
        )
    if estimator.normalise_advantages and weighting.imitates:
        return f"normalise_advantages has no meaning for {weighs}, which imitates: set it to false"
    if not weighting.reads_advantages and not isinstance(advantage, ReturnToGo):
        return (
            f"{weighs} reads no advantage, so {credits} would have no effect: leave advantage out"
        )
    if not weighting.reads_advantages and estimator.kl_coef > 0 and estimator.kl_form == "reward":
        return (
            f"{weighs} reads no advantage, so a KL in the reward would have no effect: set kl_form "
            "to exact or k2"
        )
    if advantage.needs_ratio and weighting.imitates:
        return (
            f"{credits} corrects what was done afterwards, while {weighs} imitates what was done: "
            "use Truncated, Cumulative or Clipped"
        )
    if advantage.needs_values and estimator.value_coef == 0:
        return (
            f"{credits} reads the value head, which value_coef 0 never trains: raise value_coef or "
            "use ReturnToGo"
        )
    return None
