"""Data half: what an objective is given and what it returns."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class CreditInputs:
    """Everything an objective needs to know of a batch. Faulted trajectories must not be in it.

    Attributes:
        logprobs_BS: Log-probability of each action under the policy being trained, with gradient.
        entropies_BS: Entropy of its distribution over valid actions, in nats, with gradient.
        values_BS: Value head's estimate before each action, in units of return, with gradient.
        steps_BS: Mask of steps: true for a trajectory's first ``length`` places.
        rewards_BS: Reward received for each action.
        behaviour_logprobs_BS: Log-probability under the behaviour that acted; NaN = unknown.
        baseline_BS: What is subtracted from the return-to-go, without gradient.
        fresh_B: Collected by the policy of the present collection, so that the clipped surrogate
            against it applies.
        supported_BS: The behaviour gave every valid action a positive probability, so that a
            ratio to it is meaningful.
        bootstrap_B: Cut by us (collector limit, full context): goes on with ``final_values_B``.
        final_values_B: Value after the last action; read only where ``bootstrap_B``.
        success_B: Whether the task was solved.
        weight_B: Weight of each trajectory in the policy's loss.
        value_weight_B: Weight in the value loss; (N p)^-1 of the sampling probability p makes
            the value head learn the whole store's mean return instead of the curriculum's choice.
            None = 1 for all.
        learner_values_BS: Estimate, with gradient, by the head that learns from the trajectory;
            None = ``values_BS``. A cross-fitted value head has two, so that what is subtracted
            from a trajectory's return has not learnt it.
        learner_final_values_B: The same after the last action.
        scale_B: What the advantages of each trajectory are divided by; None = 1 for all.
        proximal_logprobs_BS: Log-probability of each action under the policy at the epoch's start,
            without gradient; read by the clipped surrogate of ``Estimator``.
        reference_logprobs_BS: The same under the reference policy.
        reference_kl_BS: KL(policy || reference) of each step, in nats, exact over the children of
            the visited decisions, with gradient.
        decisions_BS: Token choices that made each action; a forced token is none.
        score_norms_BS: Squared length of each action's score by the logits of its decisions,
            without gradient (``credit.variance``); None = not asked for, or there is free text.
        token_row_D: Trajectory of each token choice; letters as in ``retro_lightning.trajectory``.
        token_step_D: Its step.
        token_logprobs_D: Its log-probability under the policy being trained, with gradient.
        token_proximal_logprobs_D: The same under the policy at the epoch's start, without gradient.
    """

    logprobs_BS: Tensor
    entropies_BS: Tensor
    values_BS: Tensor
    steps_BS: Tensor
    rewards_BS: Tensor
    behaviour_logprobs_BS: Tensor
    baseline_BS: Tensor
    fresh_B: Tensor
    supported_BS: Tensor
    bootstrap_B: Tensor
    final_values_B: Tensor
    success_B: Tensor
    weight_B: Tensor
    value_weight_B: Tensor | None = None
    learner_values_BS: Tensor | None = None
    learner_final_values_B: Tensor | None = None
    scale_B: Tensor | None = None
    proximal_logprobs_BS: Tensor | None = None
    reference_logprobs_BS: Tensor | None = None
    reference_kl_BS: Tensor | None = None
    decisions_BS: Tensor | None = None
    score_norms_BS: Tensor | None = None
    token_row_D: Tensor | None = None
    token_step_D: Tensor | None = None
    token_logprobs_D: Tensor | None = None
    token_proximal_logprobs_D: Tensor | None = None

    def __post_init__(self) -> None:
        """Refuse tensors whose shapes do not fit together.

        Raises:
            ValueError: Naming the tensor, its shape and the shape it should have.
        """
        shape_BS = self.logprobs_BS.shape
        for name, value in vars(self).items():
            if not isinstance(value, Tensor) or name.endswith("_D"):
                continue
            expected = shape_BS if name.endswith("_BS") else shape_BS[:1]
            if value.shape != expected:
                raise ValueError(
                    f"{name} has shape {tuple(value.shape)} where logprobs_BS calls for "
                    f"{tuple(expected)}"
                )

    def for_learner(self) -> CreditInputs:
        """As the head that learns from these trajectories sees them: its own values throughout."""
        if self.learner_values_BS is None or self.learner_final_values_B is None:
            return self
        return replace(
            self, values_BS=self.learner_values_BS, final_values_B=self.learner_final_values_B
        )


@dataclass(frozen=True, kw_only=True)
class LossTerms:
    """The loss of a gradient step, or of one part of it, and what is to be logged.

    Attributes:
        loss: Scalar with gradient. Parts of a gradient step add up.
        metrics: Detached scalars by name.
        advantages_BS: The advantages that the loss was made of, without gradient and 0 at padding;
            None for an objective that uses none.
        excluded_BS: Steps whose advantage moves nothing on purpose (clipped, left out); all others
            must have a gradient. None = not said.
    """

    loss: Tensor
    metrics: dict[str, Tensor]
    advantages_BS: Tensor | None
    excluded_BS: Tensor | None = None
