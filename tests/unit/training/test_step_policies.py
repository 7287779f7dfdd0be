"""Policies that are kept every so many gradient steps."""

from __future__ import annotations

import pytest
import torch

from retro_lightning.policy.policy import Policy
from retro_lightning.training.callbacks.step_policies import StepPolicies, step_policy
from tests.fits import BATCHES, EPOCHS, Fit


def test_each_is_the_policy_as_it_was(make_fit) -> None:
    fit: Fit = make_fit("run", callbacks=[StepPolicies(5)]).run()
    assert EPOCHS * BATCHES == 12
    kept = sorted(path.name for path in (fit.run_dir / "checkpoints").glob("step-*"))
    assert kept == ["step-000005-policy", "step-000010-policy"]
    early, late = (Policy.load(step_policy(fit.run_dir, step)) for step in (5, 10))
    assert (early.version, late.version) == (5, 10)
    last = fit.module.require_policy().state_dict()
    for policy in (early, late):
        values = policy.state_dict()
        assert any(not torch.equal(values[name], last[name]) for name in values)


def test_never_is_refused() -> None:
    with pytest.raises(ValueError, match="every is 0"):
        StepPolicies(0)
