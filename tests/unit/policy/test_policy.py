"""The policy against a naive scorer; what padding and masked tokens may not do; saving."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, MambaConfig, MptConfig

import tiny
from retro_lightning.policy.batch import Batch, collate
from retro_lightning.policy.language_model import (
    LlamaFromConfig,
    LoraSettings,
    PretrainedLM,
)
from retro_lightning.policy.loading import context_length
from retro_lightning.policy.policy import Policy
from retro_lightning.policy.value_head import ValueHeadSettings

POLICIES = {kind: tiny.policy(kind) for kind in tiny.KINDS}


def batch_of(policy: Policy, trajectories) -> Batch:
    return collate(policy.transcript.encode_many(trajectories), trajectories)


def test_full_distributions_sum_to_one() -> None:
    # That they equal a naive scorer's is tested with every model and tokenizer in test_models.py.
    for policy in POLICIES.values():
        for every in policy.action_log_probs(tiny.trajectory(1, 6)):
            assert np.exp(every).sum() == pytest.approx(1.0, abs=1e-12)


def test_order_of_the_valid_actions_changes_nothing() -> None:
    policy = POLICIES["llama"]
    trajectory = tiny.trajectory(0, 4)
    turned = dataclasses.replace(
        trajectory,
        steps=tuple(
            dataclasses.replace(step, valid_actions=tiny.ACTIONS[::-1]) for step in trajectory.steps
        ),
    )
    with torch.no_grad():
        one = policy.evaluate(batch_of(policy, [trajectory]))
        two = policy.evaluate(batch_of(policy, [turned]))
    assert torch.equal(one.logprobs_BS, two.logprobs_BS)
    assert torch.equal(one.entropies_BS, two.entropies_BS)


def test_context_is_the_position_limit_or_the_attention_window() -> None:
    assert context_length(tiny.language_model("gpt2", 300, context=77)) == 77
    model = tiny.language_model("qwen2", 300, context=77)
    assert context_length(model) == 77
    model.config.sliding_window = 50
    assert context_length(model) == 77  # no layer slides
    model.config.layer_types = ["full_attention", "sliding_attention"]
    assert context_length(model) == 50
    mpt = AutoModelForCausalLM.from_config(
        MptConfig(vocab_size=9, d_model=8, n_layers=1, n_heads=2, max_seq_len=33)
    )
    assert context_length(mpt) == 33
    mamba = AutoModelForCausalLM.from_config(
        MambaConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, state_size=4)
    )
    with pytest.raises(ValueError, match="MambaForCausalLM states no context length: write the"):
        context_length(mamba)


def test_entropy_is_summed_over_the_visited_nodes() -> None:
    policy = POLICIES["llama"]
    menu = ("left", "right")
    trajectory = tiny.trajectory(0, 2, actions=menu)
    with torch.no_grad():
        entropies = policy.evaluate(batch_of(policy, [trajectory])).entropies_BS[0]
    for number, every in enumerate(policy.action_log_probs(trajectory)):
        # Two actions part at one node, whose entropy is that of the whole distribution.
        assert float(entropies[number]) == pytest.approx(-(np.exp(every) * every).sum(), abs=1e-5)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
    st.integers(0, 299),
    st.sampled_from(tiny.KINDS),
)
def test_padding_changes_nothing(lengths: list[int], pad: int, kind: str) -> None:
    policy = POLICIES[kind]
    trajectories = [tiny.trajectory(seed, length) for seed, length in enumerate(lengths)]
    batch = batch_of(policy, trajectories)
    batch.tokens_RT = batch.tokens_RT.masked_fill(~batch.attention_RT, pad % len(policy.tokenizer))
    with torch.no_grad():
        together = policy.evaluate(batch)
        for row, trajectory in enumerate(trajectories):
            alone = policy.evaluate(batch_of(policy, [trajectory]))
            for name in ("logprobs_BS", "entropies_BS", "values_BS"):
                padded = getattr(together, name)[row]
                steps = lengths[row]
                torch.testing.assert_close(
                    padded[:steps], getattr(alone, name)[0], atol=1e-4, rtol=0
                )
                assert (padded[steps:] == 0).all()


def test_pads_get_no_gradient_even_where_the_pad_is_a_real_token() -> None:
    # Pad id 0 is a real token in GPT-2's vocabulary, and pad = end of action in others: neither may
    # gain or lose anything by padding.
    policy = tiny.policy("llama", pad_is_end=True)
    assert policy.tokenizer.pad_token_id == policy.transcript.end
    short, long = tiny.trajectory(0, 1), tiny.trajectory(1, 8)
    grads = []
    for trajectories in ([short], [short, long]):
        policy.zero_grad()
        policy.evaluate(batch_of(policy, trajectories)).logprobs_BS[0].sum().backward()
        grads.append(policy.lm.get_input_embeddings().weight.grad.clone())
    torch.testing.assert_close(grads[0], grads[1], atol=1e-6, rtol=1e-4)
    assert grads[0][policy.transcript.end].abs().sum() > 0  # the newline after each action


def test_only_decisions_and_states_are_read() -> None:
    policy = POLICIES["gpt2"]
    trajectories = [tiny.trajectory(0, 3), tiny.trajectory(1, 5, truncation="collector_limit")]
    batch = batch_of(policy, trajectories)
    kept: list[torch.Tensor] = []
    decoder = policy.lm.base_model

    def keep(module, inputs, output):
        output.last_hidden_state.retain_grad()
        kept.append(output.last_hidden_state)

    handle = decoder.register_forward_hook(keep)
    evaluation = policy.evaluate(batch)
    handle.remove()
    total = evaluation.logprobs_BS.sum() + evaluation.entropies_BS.sum()
    (total + evaluation.values_BS.sum() + evaluation.final_values_B.sum()).backward()
    touched = {tuple(at) for at in kept[0].grad.abs().sum(-1).nonzero().tolist()}
    rows, positions = batch.decision_row_D.tolist(), batch.decision_position_D.tolist()
    allowed = set(zip(rows, positions, strict=True))
    for row, encoded in enumerate(policy.transcript.encode_many(trajectories)):
        allowed |= {(row, int(p)) for p in encoded.state_positions}
    allowed.add((1, int(batch.final_state_B[1])))
    assert touched == allowed


def test_later_tokens_do_not_reach_earlier_decisions() -> None:
    policy = POLICIES["qwen2"]
    trajectory = tiny.trajectory(0, 4)
    changed = dataclasses.replace(trajectory.steps[3], observation="something else altogether")
    other = dataclasses.replace(trajectory, steps=(*trajectory.steps[:3], changed))
    with torch.no_grad():
        one = policy.evaluate(batch_of(policy, [trajectory])).logprobs_BS[0, :3]
        two = policy.evaluate(batch_of(policy, [other])).logprobs_BS[0, :3]
    torch.testing.assert_close(one, two)


def test_final_value_only_where_bootstrapped() -> None:
    policy = POLICIES["llama"]
    trajectories = [tiny.trajectory(0, 2), tiny.trajectory(1, 3, truncation="collector_limit")]
    batch = batch_of(policy, trajectories)
    final = policy.evaluate(batch).final_values_B
    assert batch.bootstrap_B.tolist() == [False, True]
    assert final[0] == 0
    # The value after the last action is that of one more step that sees the final observation.
    more = tiny.trajectory(1, 3).steps
    last = dataclasses.replace(more[0], observation=trajectories[1].final_observation)
    longer = dataclasses.replace(trajectories[1], steps=(*trajectories[1].steps, last))
    again = policy.evaluate(batch_of(policy, [longer])).values_BS[0, 3]
    torch.testing.assert_close(final[1], again, atol=1e-5, rtol=0)


def test_single_action_steps_have_log_prob_zero() -> None:
    policy = POLICIES["llama"]
    evaluation = policy.evaluate(batch_of(policy, [tiny.trajectory(0, 3, actions=("go",))]))
    assert evaluation.logprobs_BS.tolist() == [[0.0, 0.0, 0.0]]


def test_collate_keeps_what_the_records_say() -> None:
    policy = POLICIES["llama"]
    one, two = (
        tiny.trajectory(0, 2),
        dataclasses.replace(tiny.trajectory(1, 3), success=True, policy_version=7),
    )
    step = dataclasses.replace(one.steps[1], log_prob=-0.5)
    one = dataclasses.replace(one, steps=(one.steps[0], step))
    encoded = policy.transcript.encode_many([one, two])
    batch = collate(encoded, [one, two], [11, 12], [0.5, 2.0], [1.0, 4.0])
    assert batch.steps_BS.tolist() == [[True, True, False], [True, True, True]]
    assert batch.success_B.tolist() == [False, True]
    assert batch.policy_version_B.tolist() == [-1, 7]
    assert batch.rows_B.tolist() == [11, 12]
    assert batch.weight_B.tolist() == [0.5, 2.0]
    assert batch.value_weight_B.tolist() == [1.0, 4.0]
    assert batch.behaviour_logprobs_BS[0].isnan().tolist() == [True, False, True]
    assert float(batch.behaviour_logprobs_BS[0, 1]) == -0.5
    torch.testing.assert_close(
        batch.total_return_B, torch.tensor([one.total_return, two.total_return])
    )
    assert batch.to("cpu").rows_B.tolist() == [11, 12]
    with pytest.raises(ValueError, match="no trajectories"):
        collate([], [])


def test_a_model_that_rescales_its_logits_is_refused() -> None:
    model = tiny.language_model("llama", len(tiny.tokenizer()))
    forward = model.forward

    def scaled(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.logits = output.logits * 0.5
        return output

    model.forward = scaled
    with pytest.raises(ValueError, match="LlamaForCausalLM does more to its logits"):
        Policy(model, tiny.tokenizer(), value_head=ValueHeadSettings().build(32, 0))


def test_logits_that_are_not_finite_are_reported() -> None:
    policy = tiny.policy()
    with torch.no_grad():
        policy.lm.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="logits are not finite"):
        policy.action_log_probs(tiny.trajectory(0, 1))


# ---------------------------------------------------------------------- building and saving
def built(seed: int = 0, **kwargs) -> Policy:
    source = LlamaFromConfig(hidden_size=32, layers=2, heads=2, context=256, **kwargs)
    return Policy.build(source, tiny.tokenizer(), seed=seed).eval()


def test_same_seed_same_weights_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one = built(1)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(6)
    two, three = built(1), built(2)
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, two.state_dict()[name])
    assert any(not torch.equal(t, three.state_dict()[n]) for n, t in one.state_dict().items())


def test_every_embedding_is_learnt_the_pad_token_included() -> None:
    assert built().lm.get_input_embeddings().padding_idx is None


@pytest.mark.parametrize("tie", [False, True])
def test_save_and_load_give_the_same_policy(tmp_path, tie: bool) -> None:
    policy = built(tie_embeddings=tie)
    with torch.no_grad():
        policy.value_head.output.weight.normal_()
    policy.version = 17
    directory = tmp_path / "policy"
    policy.save(directory)
    policy.save(directory)  # replaces
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]
    again = Policy.load(directory).eval()
    batch = batch_of(policy, [tiny.trajectory(0, 3)])
    one, two = policy.evaluate(batch), again.evaluate(batch)
    assert torch.equal(one.logprobs_BS, two.logprobs_BS)
    assert torch.equal(one.values_BS, two.values_BS)
    assert (one.values_BS != 0).any()
    assert again.version == 17
    assert not list(directory.glob("*.bin"))


def test_a_plain_hugging_face_directory_loads_with_a_fresh_value_head(tmp_path) -> None:
    model = tiny.language_model("gpt2", len(tiny.tokenizer()))
    model.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    policy = Policy.load(tmp_path)
    assert policy.version == 0
    assert (policy.evaluate(batch_of(policy, [tiny.trajectory(0, 2)])).values_BS == 0).all()


def test_a_missing_directory_and_a_newer_format_are_reported(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="no policy or Hugging Face directory at"):
        Policy.load(tmp_path / "nothing")
    built().save(tmp_path / "policy")
    about = tmp_path / "policy" / "policy.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), "format": 99}))
    with pytest.raises(ValueError, match="written by a newer release"):
        Policy.load(tmp_path / "policy")


def test_impossible_models_are_refused() -> None:
    with pytest.raises(ValueError, match=r"language_model\.layers is 0"):
        LlamaFromConfig(layers=0)
    with pytest.raises(ValueError, match="hidden_size 30 cannot be split over 4 heads"):
        LlamaFromConfig(hidden_size=30, heads=4)
    with pytest.raises(ValueError, match=r"lora\.rank is 0"):
        LoraSettings(rank=0)
    with pytest.raises(ValueError, match=r"lora\.dropout is 1\.0"):
        LoraSettings(dropout=1.0)
    with pytest.raises(ValueError, match=r"value_head\.width is -1"):
        ValueHeadSettings(width=-1)


def test_detached_value_head_leaves_the_model_alone() -> None:
    source = LlamaFromConfig(hidden_size=32, layers=1, heads=2)
    for detach in (False, True):
        policy = Policy.build(
            source, tiny.tokenizer(), value_head=ValueHeadSettings(width=4, detach=detach)
        )
        torch.nn.init.normal_(policy.value_head.output.weight)
        policy.evaluate(batch_of(policy, [tiny.trajectory(0, 2)])).values_BS.sum().backward()
        reached = any(p.grad is not None and p.grad.any() for p in policy.lm.parameters())
        assert reached is not detach


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_adapters_train_alone_and_survive_saving(tmp_path, kind: str) -> None:
    base = tmp_path / "base"
    tiny.language_model(kind, len(tiny.tokenizer())).save_pretrained(base)
    tiny.tokenizer().save_pretrained(base)
    policy = Policy.build(PretrainedLM(str(base), lora=LoraSettings(rank=2)), None, seed=3)
    batch = batch_of(policy, [tiny.trajectory(0, 3)])
    before = policy.eval().evaluate(batch).logprobs_BS.detach()
    plain = Policy.load(base).eval()
    torch.testing.assert_close(before, plain.evaluate(batch).logprobs_BS, atol=1e-5, rtol=0)
    trained = {name for name, p in policy.lm.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora" in name for name in trained)
    with torch.no_grad():
        for name, parameter in policy.lm.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1)
    after = policy.evaluate(batch).logprobs_BS.detach()
    assert not torch.allclose(before, after, atol=1e-3)
    policy.save(tmp_path / "adapted")
    again = Policy.load(tmp_path / "adapted").eval()
    torch.testing.assert_close(again.evaluate(batch).logprobs_BS, after, atol=1e-5, rtol=0)
    assert (tmp_path / "adapted" / "adapter_model.safetensors").is_file()
