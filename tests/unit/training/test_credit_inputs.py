"""Parts joined for credit assignment: tokens, decisions and the exact KL land where they belong."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from retro_lightning.credit.baselines import NoBaseline
from retro_lightning.credit.estimators import CreditInputs
from retro_lightning.policy.batch import Batch, collate
from retro_lightning.policy.policy import Policy
from retro_lightning.training.credit_inputs import credit_inputs, score_norms_BS
from retro_lightning.training.other_policies import Reference, evaluate
from tests.tiny import policy, trajectory

TRAJECTORIES = [trajectory(seed, steps) for seed, steps in enumerate((1, 4, 2, 3))]


def parts_of(acting: Policy) -> list[Batch]:
    """Two parts of unequal length and size."""
    encoded = acting.transcript.encode_many(TRAJECTORIES)
    return [
        collate(encoded[cut], TRAJECTORIES[cut], list(range(4))[cut])
        for cut in (slice(0, 1), slice(1, 4))
    ]


def joined(acting: Policy, other: Policy) -> tuple[list[Batch], CreditInputs]:
    parts = parts_of(acting)
    theirs = evaluate(other, parts)
    return parts, credit_inputs(
        parts,
        evaluate(acting, parts),
        NoBaseline(),
        np.zeros(4, dtype=np.bool_),
        proximal=theirs,
        reference=theirs,
        tokens=True,
    )


def shaken() -> Policy:
    other = policy()
    with torch.no_grad():
        for parameter in other.lm.parameters():
            parameter.mul_(1.2)
    return other


def test_fresh_rows_are_those_that_the_store_says() -> None:
    acting = policy()
    parts = parts_of(acting)
    fresh_N = np.array([False, True, True, False])
    inputs = credit_inputs(parts, evaluate(acting, parts), NoBaseline(), fresh_N)
    assert inputs.fresh_B.tolist() == [False, True, True, False]


def test_tokens_add_up_to_their_actions() -> None:
    _, inputs = joined(policy(), shaken())
    place = (inputs.token_row_D, inputs.token_step_D)
    for tokens_D, actions_BS in (
        (inputs.token_logprobs_D, inputs.logprobs_BS),
        (inputs.token_proximal_logprobs_D, inputs.proximal_logprobs_BS),
    ):
        sums_BS = torch.zeros_like(inputs.logprobs_BS).index_put(place, tokens_D, accumulate=True)
        torch.testing.assert_close(sums_BS, actions_BS)
    ones_D = torch.ones_like(inputs.token_logprobs_D)
    counts_BS = torch.zeros_like(inputs.logprobs_BS).index_put(place, ones_D, accumulate=True)
    assert torch.equal(counts_BS, inputs.decisions_BS.float())
    assert inputs.decisions_BS[inputs.steps_BS].min() >= 1
    assert (inputs.logprobs_BS - inputs.proximal_logprobs_BS).abs().max() > 0.01


def test_the_exact_kl_of_each_step_is_summed_over_its_decisions_children() -> None:
    acting, other = policy(), shaken()
    parts, inputs = joined(acting, other)
    expected_BS = torch.zeros_like(inputs.logprobs_BS)
    norms_BS = torch.zeros_like(inputs.logprobs_BS)
    row = 0
    for part, ours, theirs in zip(
        parts, evaluate(acting, parts), evaluate(other, parts), strict=True
    ):
        for d in range(len(part.chosen_D)):
            mask_C = part.children_mask_DC[d]
            p_C = ours.child_logprobs_DC[d][mask_C].exp()
            q_C = theirs.child_logprobs_DC[d][mask_C].exp()
            assert p_C.sum().item() == pytest.approx(1.0, abs=1e-5)
            at = row + int(part.decision_row_D[d]), int(part.decision_step_D[d])
            expected_BS[at] += (p_C * (p_C / q_C).log()).sum()
            score_C = -p_C.clone()
            score_C[part.chosen_D[d]] += 1.0
            norms_BS[at] += score_C.square().sum()
        row += len(part)
    torch.testing.assert_close(inputs.reference_kl_BS, expected_BS, rtol=1e-4, atol=1e-6)
    found_BS = score_norms_BS(parts, evaluate(acting, parts))
    torch.testing.assert_close(found_BS, norms_BS, rtol=1e-4, atol=1e-6)


def test_tokens_of_free_text_count_too() -> None:
    """A written action beside a chosen one: its tokens add up, and no whole KL is claimed."""
    acting = policy()
    base = trajectory(7, 3)
    written = dataclasses.replace(base.steps[1], valid_actions=None, action="open the red door")
    mixed = dataclasses.replace(base, steps=(base.steps[0], written, base.steps[2]))
    records = [trajectory(8, 2), mixed]
    parts = [
        collate([encoded], [record], [i])
        for i, (encoded, record) in enumerate(
            zip(acting.transcript.encode_many(records), records, strict=True)
        )
    ]
    said = evaluate(acting, parts)
    inputs = credit_inputs(
        parts, said, NoBaseline(), np.zeros(2, dtype=np.bool_), reference=said, tokens=True
    )
    sums_BS = torch.zeros_like(inputs.logprobs_BS).index_put(
        (inputs.token_row_D, inputs.token_step_D), inputs.token_logprobs_D, accumulate=True
    )
    torch.testing.assert_close(sums_BS, inputs.logprobs_BS)
    assert inputs.decisions_BS[1, 1] > 3  # four words and the end are at least as many tokens
    assert inputs.reference_kl_BS is None
    assert score_norms_BS(parts, said) is None


def test_without_adapters_a_policy_is_its_own_reference() -> None:
    acting = policy()
    with pytest.raises(ValueError, match=r"no reference policy: set model.reference_policy"):
        Reference(None).evaluate(acting, parts_of(acting))
    bare = evaluate(acting, parts_of(acting))
    adapted = Policy(
        get_peft_model(acting.lm, LoraConfig(r=2, target_modules=["q_proj", "v_proj"])),
        acting.tokenizer,
        value_head=acting.value_head,
    )
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.5)
    found = Reference(None).evaluate(adapted, parts_of(adapted))
    for one, other, trained in zip(found, bare, evaluate(adapted, parts_of(adapted)), strict=True):
        torch.testing.assert_close(one.logprobs_BS, other.logprobs_BS)
        assert not torch.allclose(trained.logprobs_BS, other.logprobs_BS, atol=1e-3)
