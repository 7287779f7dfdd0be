"""Distributions, soft prompts and recorded distributions, chosen in a configuration and fitted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from retro_lightning.config import command
from retro_lightning.policy.actions import TrieConstrained
from retro_lightning.policy.batch import collate
from retro_lightning.policy.conditioning import (
    DescriptionEmbedding,
    LearnedTaskEmbedding,
    TaskConditioning,
)
from retro_lightning.policy.language_model import LoraSettings, PretrainedLM
from retro_lightning.policy.policy import Policy
from retro_lightning.policy.scoring import PointwiseMutualInformation, TokenMean
from retro_lightning.replay.store import ReplayStore
from retro_lightning.training.callbacks.rollouts import FreshRollouts
from retro_lightning.training.other_policies import Reference
from tests.fits import Fit, phases

CORRIDOR = Path(__file__).parents[2] / "corridor.yaml"
FAMILIES = ["corridor/short", "corridor/long"]


@pytest.mark.parametrize(
    ("distribution", "conditioning"),
    [
        (lambda: TrieConstrained(uniform_prior=True), lambda: LearnedTaskEmbedding(FAMILIES)),
        (PointwiseMutualInformation, DescriptionEmbedding),
    ],
)
def test_stored_distributions_are_those_that_the_policy_computes_again(
    distribution: Callable[[], TrieConstrained],
    conditioning: Callable[[], TaskConditioning],
    make_fit: Callable[..., Fit],
) -> None:
    parts = {"distribution": distribution(), "conditioning": conditioning()}
    fit = make_fit(
        "run",
        make_phases=lambda: phases(None),
        model=parts,
        trainer_options={"max_epochs": 1, "limit_train_batches": 2},
    )
    [rollouts] = [c for c in fit.trainer.callbacks if isinstance(c, FreshRollouts)]
    rollouts.record_distribution = True
    fit.run()
    before = Policy.build(
        fit.module.language_model,
        fit.datamodule.tokenizer,
        value_head=fit.module.value_head,
        seed=fit.module.seed,
        **parts,
    ).eval()
    store = ReplayStore(fit.run_dir / "store")
    collected = store.read(range(len(store)))
    assert len(collected) == 8
    for trajectory in collected:
        every = before.action_log_probs(trajectory)
        for step, again in zip(trajectory.steps, every, strict=True):
            np.testing.assert_allclose(step.log_probs, again, atol=1e-4)
            assert step.log_prob == pytest.approx(
                step.log_probs[step.valid_actions.index(step.action)], abs=1e-6
            )
    # What the fit saved goes on in the same way, soft prompt and distribution included.
    after = fit.module.require_policy()
    [directory] = (fit.run_dir / "checkpoints").glob("best*-policy")
    again = Policy.load(directory)
    assert type(again.distribution) is type(after.distribution)
    assert again.soft_prompt is not None
    learnt = [p for n, p in after.named_parameters() if n.startswith("soft_prompt")]
    fresh = [p for n, p in before.named_parameters() if n.startswith("soft_prompt")]
    assert any((a != b).any() for a, b in zip(learnt, fresh, strict=True))


def test_both_are_chosen_by_class_path() -> None:
    cli = command.build(
        "fit",
        [
            f"--config={CORRIDOR}",
            "--trainer.logger=false",
            "--model.distribution=retro_lightning.policy.scoring.TokenMean",
            "--model.conditioning=retro_lightning.policy.conditioning.LearnedTaskEmbedding",
            f"--model.conditioning.tasks={FAMILIES}",
        ],
    )
    assert isinstance(cli.model.distribution, TokenMean)
    assert isinstance(cli.model.conditioning, LearnedTaskEmbedding)
    assert cli.model.conditioning.tasks == FAMILIES
    cli = command.build(
        "fit",
        [
            f"--config={CORRIDOR}",
            "--trainer.logger=false",
            "--model.distribution=retro_lightning.policy.actions.TrieConstrained",
            "--model.distribution.uniform_prior=true",
        ],
    )
    assert cli.model.distribution.uniform_prior


def test_the_reference_of_adapters_is_the_model_without_them(tmp_path: Path) -> None:
    tiny.language_model("llama", 300).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    policy = Policy.build(PretrainedLM(str(tmp_path), lora=LoraSettings(rank=2)), None, seed=1)
    records = [tiny.trajectory(0, 3)]
    part = collate(policy.transcript.encode_many(records), records)
    with torch.no_grad():
        before = policy.eval().evaluate(part).logprobs_BS
        for name, parameter in policy.lm.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
        after = policy.evaluate(part).logprobs_BS
    [reference] = Reference(None).evaluate(policy, [part])
    torch.testing.assert_close(reference.logprobs_BS, before, atol=1e-5, rtol=0)
    assert not torch.allclose(after, before, atol=1e-2)
