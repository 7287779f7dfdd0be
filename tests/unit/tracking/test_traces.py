"""Traces of episodes: spans, probabilities, feedback."""

from __future__ import annotations

import os
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient

from retro_lightning.tracking.mlflow import MLflowRun
from retro_lightning.tracking.traces import RolloutTraces, Told, action_log_probs, step_inputs, tell
from retro_lightning.trajectory import Step
from tests import tiny
from tests.unit.tracking.test_tracking_callbacks import episode


@pytest.mark.parametrize("known", [False, True])
def test_an_episode_is_a_trace_with_a_span_for_each_step_and_its_return_as_feedback(
    workplace, monkeypatch, known
):
    if known:  # the address is MLflow's own already
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{workplace}/mlflow.db")
    before = mlflow.get_tracking_uri(), os.environ.get("MLFLOW_TRACKING_URI")
    logger = MLflowRun()
    logger.attach(Path("runs/one"), name="one", remember=False, resume=False)
    told = Told(episode(reflections=("look left",)), "val", 12, ((-0.5,), None))
    [trace_id] = tell([told], logger)
    assert (mlflow.get_tracking_uri(), os.environ.get("MLFLOW_TRACKING_URI")) == before
    client = MlflowClient(logger.tracking_uri)
    run = client.get_run(str(logger.version))
    [trace] = client.search_traces(
        locations=[run.info.experiment_id], run_id=run.info.run_id, include_spans=True
    )
    assert trace.info.trace_id == trace_id
    assert trace.info.tags["optimiser_step"] == "12"
    root, first, second = trace.data.spans
    assert root.inputs == {"task": "go", "reflections": "look left"}
    assert root.outputs["return"] == 1.0
    assert (first.name, second.name) == ("1. open", "2. go")
    assert first.inputs == {"observation": "a door", "valid actions": {"open": 0.6065}}
    assert first.outputs == {"action": "open", "reward": 0.0}
    assert second.inputs["valid actions"] == ["go"]
    [feedback] = trace.info.assessments
    assert (feedback.name, feedback.feedback.value) == ("return", 1.0)


def test_probabilities_are_those_of_the_policy_where_none_were_recorded():
    policy = tiny.policy()
    episode_ = tiny.trajectory(3, 2)
    asked = action_log_probs(episode_, policy)
    assert [len(step) for step in asked] == [len(tiny.ACTIONS)] * 2
    np.testing.assert_allclose([np.exp(step).sum() for step in asked], 1.0, atol=1e-5)
    np.testing.assert_allclose(asked[1], policy.action_log_probs(episode_)[1], atol=1e-6)
    assert action_log_probs(episode_, None) == (None, None)


def test_actions_are_told_the_likeliest_first():
    step = Step(observation="o", valid_actions=("a", "b", "c"), action="b", reward=0.0)
    shown = step_inputs(step, np.log([0.2, 0.7, 0.1]))
    assert list(shown["valid actions"].items()) == [("b", 0.7), ("a", 0.2), ("c", 0.1)]
    free = Step(observation="o", valid_actions=None, action="b", reward=0.0)
    assert step_inputs(free, None)["valid actions"] == "free text"


def test_zero_of_each_family_is_refused():
    with pytest.raises(ValueError, match="per_family is 0"):
        RolloutTraces(0)
