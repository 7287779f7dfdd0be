"""Behaviour half: replay prioritisation, which stored trajectories are learnt from."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from retro_lightning.curriculum.columns import Codes, Columns, Floats, Mask, Rows, require_some
from retro_lightning.curriculum.feedback import Feedback
from retro_lightning.curriculum.filters import best_of_each, rank_within
from retro_lightning.curriculum.pacing import Adaptive, Pacing
from retro_lightning.curriculum.quality import Quality
from retro_lightning.curriculum.sampling import correction, normalised


class Prioritisation(ABC):
    """Gives every stored trajectory the probability with which it is drawn for learning.

    Attributes:
        correction: How much of the sampling the loss weights undo, in [0, 1]: the loss of a
            trajectory drawn with probability p is multiplied with ``(N p)^-correction``. 0 (the
            default): what is minimised is the mean loss under the curriculum, on purpose. 1: the
            plain mean over all N trajectories that can be drawn. Between them neither.
        needs_td_errors: Whether it wants to be told TD errors.
    """

    correction: float = 0.0
    needs_td_errors: bool = False

    @abstractmethod
    def probabilities(self, columns: Columns, learnable_N: Mask, progress: float) -> Floats:
        """Probability of each trajectory of the store.

        Args:
            columns: Columns of the store, N trajectories.
            learnable_N: Which may be learnt from: training tasks, not faulted, not empty.
            progress: Share of the fit that is done, in [0, 1].

        Returns:
            ``p_N``, which adds up to 1; 0 where not learnable.

        Raises:
            ValueError: If nothing can be learnt from.
        """

    def weights(self, p_N: Floats, rows: Rows) -> Floats:
        """Loss weight of each drawn row, which undoes the sampling as far as wanted.

        Args:
            p_N: Probabilities the rows were drawn with.
            rows: The rows drawn.
        """
        return correction(p_N, rows, self.correction)

    def observe(self, feedback: Feedback) -> None:  # noqa: B027  (not all need feedback)
        """Learn how the fit goes."""

    def state_dict(self) -> dict[str, Any]:
        """State as Python primitives."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Return to a state."""


class Uniform(Prioritisation):
    """Draws every trajectory alike.

    Args:
        successes_only: Leave out trajectories that did not solve their task.
        balance_families: Give every family the same total probability, however many trajectories
            it has; otherwise every trajectory the same.
    """

    def __init__(self, successes_only: bool = False, balance_families: bool = True) -> None:
        self.successes_only = successes_only
        self.balance_families = balance_families

    def probabilities(self, columns: Columns, learnable_N: Mask, progress: float) -> Floats:
        """See ``Prioritisation``; progress is not read."""
        require_some(learnable_N)
        chosen_N = learnable_N & columns.success if self.successes_only else learnable_N
        if not chosen_N.any():
            raise ValueError(
                f"none of the {int(learnable_N.sum())} learnable trajectories solved its task: "
                "set successes_only to false or add trajectories that did"
            )
        return shares(chosen_N.astype(np.float64), columns.family, self.balance_families)


class QualityWeighted(Prioritisation):
    """Starts with the best trajectories and opens to the rest as pacing says.

    Open are the best ones of each family, by rank, so that no family is left out; within what is
    open, the probability is proportional to ``max(quality, floor) ** alpha``. With
    ``start_fraction`` 1 it is plain proportional prioritisation, with ``alpha`` 0 plain best-first.

    Args:
        alpha: How much quality counts within what is open. 0 = all alike, higher = the best more.
        start_fraction: Share of each family that is open at the start, in (0, 1].
        pacing: How the rest opens; default: ``Adaptive``, with validation success.
        floor: Least quality, in (0, 1], that a trajectory is weighted with, so that failures are
            drawn at all once they are open. Lower = failures are drawn less.
        quality: The measures of quality and their weights.
        balance_families: Give every family the same total probability, however many trajectories
            it has.
        correction: How much of this sampling the loss weights undo, in [0, 1]: (N p)^-correction.
            0 = what is learnt is the mean under the curriculum, 1 = the plain mean over all that
            is open.
        reverse: Turn quality round, so that the worst come first: for experiments that ask whether
            the order matters at all.
    """

    def __init__(
        self,
        alpha: float = 1.0,
        start_fraction: float = 0.3,
        pacing: Pacing | None = None,
        floor: float = 0.1,
        quality: Quality | None = None,
        balance_families: bool = True,
        correction: float = 0.0,
        reverse: bool = False,
    ) -> None:
        check_number(self, "alpha", alpha)
        for name, value in (("start_fraction", start_fraction), ("floor", floor)):
            if not 0.0 < value <= 1.0:
                raise ValueError(
                    f"QualityWeighted: {name} is {value}; give a number above 0, at most 1"
                )
        check_share(self, "correction", correction)
        self.alpha = alpha
        self.start_fraction = start_fraction
        self.pacing = pacing if pacing is not None else Adaptive()
        self.floor = floor
        self.quality = quality if quality is not None else Quality()
        self.balance_families = balance_families
        self.correction = correction
        self.reverse = reverse

    def open_fraction(self, progress: float) -> float:
        """Share of each family that is open, in (0, 1]."""
        return float(self.start_fraction + (1.0 - self.start_fraction) * self.pacing(progress))

    def probabilities(self, columns: Columns, learnable_N: Mask, progress: float) -> Floats:
        """See ``Prioritisation``."""
        require_some(learnable_N)
        quality_N = self.quality(columns, learnable_N)
        if self.reverse:
            quality_N = np.where(learnable_N, 1.0 - quality_N, 0.0)
        open_N = best_of_each(quality_N, columns.family, learnable_N, self.open_fraction(progress))
        mass_N = np.where(open_N, np.maximum(quality_N, self.floor) ** self.alpha, 0.0)
        return shares(mass_N, columns.family, self.balance_families)

    def observe(self, feedback: Feedback) -> None:
        """Tell the pacing."""
        if feedback.validation_success is not None:
            self.pacing.observe(feedback.validation_success)

    def state_dict(self) -> dict[str, Any]:
        """The pacing's state."""
        return {"pacing": self.pacing.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Return to a state."""
        self.pacing.load_state_dict(state["pacing"])


class RankWeighted(Prioritisation):
    """Draws by rank of quality within the family: ``p`` proportional to ``rank ** -alpha``.

    Schaul et al. 2016 (arXiv 1511.05952, section 3.3) with quality in the place of the TD error:
    how much better a trajectory is does not count, only how many are better. Ranks begin at 1;
    of equals the newer comes first.

    Args:
        alpha: How much the rank counts. 0 = all alike, higher = the best more.
        quality: The measures of quality and their weights.
        balance_families: Give every family the same total probability.
        correction: How much of this sampling the loss weights undo, in [0, 1].
        reverse: Turn quality round, so that the worst have the first ranks.
    """

    def __init__(
        self,
        alpha: float = 0.7,
        quality: Quality | None = None,
        balance_families: bool = True,
        correction: float = 0.0,
        reverse: bool = False,
    ) -> None:
        check_number(self, "alpha", alpha)
        check_share(self, "correction", correction)
        self.alpha = alpha
        self.quality = quality if quality is not None else Quality()
        self.balance_families = balance_families
        self.correction = correction
        self.reverse = reverse

    def probabilities(self, columns: Columns, learnable_N: Mask, progress: float) -> Floats:
        """See ``Prioritisation``; progress is not read."""
        require_some(learnable_N)
        quality_N = self.quality(columns, learnable_N)
        ordered_N = -quality_N if self.reverse else quality_N
        rank_N = rank_within(ordered_N, columns.family, learnable_N) + 1.0
        mass_N = np.where(learnable_N, rank_N**-self.alpha, 0.0)
        return shares(mass_N, columns.family, self.balance_families)


def shares(mass_N: Floats, family_N: Codes, balance_families: bool) -> Floats:
    """Masses as probabilities, over families alike or as they are."""
    return balanced(mass_N, family_N) if balance_families else normalised(mass_N)


def balanced(mass_N: Floats, family_N: Codes) -> Floats:
    """Scale so that every family with any mass has the same share of it.

    Args:
        mass_N: Mass of each trajectory, not negative.
        family_N: Family codes, from 0.

    Returns:
        Probabilities [N]; add up to 1.
    """
    totals = np.bincount(family_N, weights=mass_N)
    return normalised(mass_N / np.where(totals > 0, totals, 1.0)[family_N])


def check_number(owner: object, name: str, value: float) -> None:
    """Refuse an argument that is not finite and at least 0, by name."""
    if not 0.0 <= value < math.inf:
        raise ValueError(
            f"{type(owner).__name__}: {name} is {value}; give a finite number of at least 0"
        )


def check_share(owner: object, name: str, value: float) -> None:
    """Refuse an argument outside [0, 1], by name."""
    if not 0.0 <= value <= 1.0:
        raise ValueError(
            f"{type(owner).__name__}: {name} is {value}; give a number between 0 and 1"
        )
