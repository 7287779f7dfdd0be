"""Behaviour half: a callback that tells sampled episodes as MLflow traces, a span for each step.

A trace shows what the agent saw, what it could do and with which probability, what it did and what
came of it; the episode's return stands beside it as feedback.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
import torch

from retro_lightning.policy.policy import Policy
from retro_lightning.tracking.mlflow import MLflowRun
from retro_lightning.tracking.sampled import SampledEpisodes
from retro_lightning.trajectory import Step, Trajectory

_SOURCE_RUN = "mlflow.sourceRun"
_NANOSECONDS = 1_000_000


@dataclass(frozen=True)
class Told:
    """An episode to be told.

    Attributes:
        trajectory: The episode.
        stage: ``rollout``, ``val`` or ``test``.
        step: Optimiser steps taken.
        log_probs: Log-probability of every valid action of each step; None where unknown.
    """

    trajectory: Trajectory
    stage: str
    step: int
    log_probs: tuple[Sequence[float] | None, ...]


class RolloutTraces(SampledEpisodes[Told]):
    """Logs sample episodes of validation, test and fresh rollouts as traces.

    An episode costs some 50 ms, and one forward pass of the policy for the probabilities; each
    write waits up to a second for MLflow's own threads.
    """

    def kept(
        self, trajectory: Trajectory, stage: str, step: int, pl_module: L.LightningModule
    ) -> Told:
        """The episode with the probabilities of what could have been done."""
        policy = getattr(pl_module, "policy", None)
        return Told(trajectory, stage, step, action_log_probs(trajectory, policy))

    def write(self, waiting: Sequence[Told], logger: MLflowRun) -> None:
        """Tell the episodes."""
        tell(waiting, logger)


def action_log_probs(
    trajectory: Trajectory, policy: Policy | None
) -> tuple[Sequence[float] | None, ...]:
    """Log-probability of every valid action of each step: as recorded, else as the policy has it.

    Args:
        trajectory: The episode.
        policy: Who acted, unchanged since; None = nobody that could be asked.
    """
    recorded = tuple(step.log_probs for step in trajectory.steps)
    if policy is None or None not in recorded:
        return recorded
    training = policy.training
    policy.eval()
    with torch.no_grad():
        asked = policy.action_log_probs(trajectory)
    policy.train(training)
    return tuple(
        own if own is not None else (asked[i].tolist() or None if i < len(asked) else None)
        for i, own in enumerate(recorded)
    )


def tell(episodes: Sequence[Told], logger: MLflowRun) -> list[str]:
    """Log episodes as traces of a run, with their return as feedback.

    Returns:
        Ids of the traces.
    """
    import mlflow
    from mlflow.entities import AssessmentSource

    source = AssessmentSource(source_type="CODE", source_id="retro_lightning")
    run = logger.client.get_run(logger.version)
    with _tracking(logger.tracking_uri):
        traces = [_trace(told, run.info.experiment_id, run.info.run_id) for told in episodes]
    with _tracking(logger.tracking_uri):  # the traces were written when the address was put back
        for trace_id, told in zip(traces, episodes, strict=True):
            trajectory = told.trajectory
            mlflow.log_feedback(
                trace_id=trace_id,
                name="return",
                value=trajectory.total_return,
                source=source,
                rationale="solved" if trajectory.success else "not solved",
            )
    return traces


def _trace(told: Told, experiment_id: str, run_id: str) -> str:
    import mlflow

    trajectory, start = told.trajectory, time.time_ns()
    inputs = {"task": trajectory.task.instruction}
    if trajectory.reflections:
        inputs["reflections"] = "\n".join(trajectory.reflections)
    root = mlflow.start_span_no_context(
        f"{told.stage} {trajectory.task.family}",
        span_type="AGENT",
        inputs=inputs,
        tags={
            "family": trajectory.task.family,
            "stage": told.stage,
            "success": str(trajectory.success).lower(),
            "optimiser_step": str(told.step),
        },
        attributes={"task_id": trajectory.task.task_id, "behaviour": trajectory.behaviour_id},
        metadata={_SOURCE_RUN: run_id},
        experiment_id=experiment_id,
        start_time_ns=start,
    )
    for number, (step, log_probs) in enumerate(zip(trajectory.steps, told.log_probs, strict=True)):
        span = mlflow.start_span_no_context(
            f"{number + 1}. {step.action}",
            span_type="TOOL",
            parent_span=root,
            inputs=step_inputs(step, log_probs),
            start_time_ns=start + number * _NANOSECONDS,
        )
        span.end(outputs=step_outputs(step), end_time_ns=start + (number + 1) * _NANOSECONDS)
    root.end(
        outputs={
            "success": trajectory.success,
            "return": trajectory.total_return,
            "ended": trajectory.fault or trajectory.truncation or "terminated",
            "final observation": trajectory.final_observation,
        },
        end_time_ns=start + (trajectory.length + 1) * _NANOSECONDS,
    )
    return str(root.trace_id)


def step_inputs(step: Step, log_probs: Sequence[float] | None) -> dict[str, Any]:
    """What the agent saw and could do; valid actions with probabilities, the likeliest first."""
    shown: dict[str, Any] = {"observation": step.observation}
    if step.valid_actions is None:
        shown["valid actions"] = "free text"
    elif log_probs is None:
        shown["valid actions"] = list(step.valid_actions)
    else:
        order = np.argsort(-np.asarray(log_probs), kind="stable")
        shown["valid actions"] = {
            step.valid_actions[i]: round(float(np.exp(log_probs[i])), 4) for i in order
        }
    return shown


def step_outputs(step: Step) -> dict[str, Any]:
    """What it did, and what that brought."""
    shown: dict[str, Any] = {} if step.thought is None else {"thought": step.thought}
    return shown | {"action": step.action, "reward": step.reward}


@contextmanager
def _tracking(uri: str) -> Iterator[None]:
    """MLflow's traces go where its global address says: set it, and put it back.

    It keeps that address in the environment too, for processes that are started from here. Another
    address makes it write all traces of the last one that still wait.
    """
    import mlflow

    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]  # even if it was the same before
        if before is not None:
            mlflow.set_tracking_uri(before)
