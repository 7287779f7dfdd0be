"""Language models of every kind: how they are held, trained, saved, refused."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForCausalLM
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BertGenerationConfig,
    Cohere2Config,
    CohereConfig,
    DogeConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPTNeoConfig,
    GraniteConfig,
    Lfm2Config,
    MistralConfig,
    MptConfig,
    OPTConfig,
    PreTrainedConfig,
    Qwen3Config,
    Qwen3NextConfig,
)

import naive
import tiny
from retro_lightning.environments.base import make_tasks
from retro_lightning.policy.actions import ActionDistribution, TrieConstrained
from retro_lightning.policy.batch import collate
from retro_lightning.policy.conditioning import LearnedTaskEmbedding
from retro_lightning.policy.language_model import LoraSettings, PretrainedLM
from retro_lightning.policy.loading import loading_of
from retro_lightning.policy.policy import Policy
from retro_lightning.policy.scoring import SequenceScore
from retro_lightning.policy.value_head import ValueHeadSettings
from retro_lightning.rollout.collector import Job, collect
from retro_lightning.trajectory import Trajectory
from tests.support import CorridorEnv


def directory(place: Path, kind: str = "llama", *, context: int = 512) -> str:
    """A Hugging Face directory with random weights and a tokenizer."""
    tiny.language_model(kind, len(tiny.tokenizer()), context).save_pretrained(place)
    tiny.tokenizer().save_pretrained(place)
    return str(place)


def logprobs(policy: Policy, trajectories: list[Trajectory]) -> torch.Tensor:
    batch = collate(policy.transcript.encode_many(trajectories), trajectories)
    return policy.evaluate(batch).logprobs_BS


TRAJECTORIES = [tiny.trajectory(0, 3), tiny.trajectory(1, 6)]


# ---------------------------------------------------------------------- architectures, tokenizers
@pytest.mark.parametrize("tokenizer", tiny.TOKENIZERS)
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_equals_the_naive_scorer_under_every_tokenizer(kind: str, tokenizer: str) -> None:
    policy = tiny.policy(kind, tok=tiny.TOKENIZERS[tokenizer]())
    with torch.no_grad():
        ours_BS = logprobs(policy, TRAJECTORIES)
        for row, trajectory in enumerate(TRAJECTORIES):
            for number, every in enumerate(policy.action_log_probs(trajectory)):
                oracle = naive.trie_constrained(policy, trajectory, number)
                np.testing.assert_allclose(every, oracle, atol=1e-4)
                step = trajectory.steps[number]
                chosen = oracle[step.valid_actions.index(step.action)]
                assert float(ours_BS[row, number]) == pytest.approx(float(chosen), abs=1e-4)


@pytest.mark.parametrize("tokenizer", tiny.TOKENIZERS)
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_model_and_tokenizer_are_the_same_when_loaded_again(
    kind: str, tokenizer: str, tmp_path: Path
) -> None:
    policy = tiny.policy(kind, tok=tiny.TOKENIZERS[tokenizer]())
    policy.save(tmp_path)
    again = Policy.load(tmp_path).eval()
    pretrained = Policy.build(PretrainedLM(str(tmp_path)), None).eval()
    with torch.no_grad():
        expected_BS = logprobs(policy, TRAJECTORIES)
        for other in (again, pretrained):
            assert other.transcript.fingerprint == policy.transcript.fingerprint
            assert torch.equal(logprobs(other, TRAJECTORIES), expected_BS)


def test_no_tokenizer_merges_across_the_action_boundary() -> None:
    tokenizer = tiny.merging_tokenizer()
    policy = tiny.policy(tok=tokenizer)
    [trajectory] = [tiny.trajectory(0, 1)]
    step = trajectory.steps[0]
    before = naive.prefix(policy, trajectory, 0)
    whole = tokenizer.encode(
        f"Observation: {step.observation}\nTask: {trajectory.task.instruction}\n"
        f"Action: {step.action}\n"
    )
    # Left to itself, the tokenizer makes one token of both sides of the boundary ...
    assert whole[: len(before)] != before
    # ... ours stands exactly between context and action.
    encoded = policy.transcript.encode(trajectory)
    assert encoded.state_positions.tolist() == [len(before) - 1]
    ids = encoded.tokens.tolist()
    assert tokenizer.decode(ids[: len(before)]).endswith("Action:")
    assert tokenizer.decode(ids[len(before) :]) == f" {step.action}\n"


def test_neither_a_pad_nor_a_bos_token_is_needed() -> None:
    tokenizer = tiny.merging_tokenizer()
    assert tokenizer.pad_token_id is None
    assert tokenizer.bos_token_id is None
    policy = tiny.policy("gpt2", tok=tokenizer)
    with torch.no_grad():
        together, alone = logprobs(policy, TRAJECTORIES), logprobs(policy, TRAJECTORIES[:1])
    torch.testing.assert_close(together[0, :3], alone[0], atol=1e-5, rtol=0)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has 300 tokens but LlamaForCausalLM has .* for 99: use"):
        Policy(
            tiny.language_model("llama", 99),
            tiny.tokenizer(),
            value_head=ValueHeadSettings().build(32, 0),
        )


def test_of_a_trajectory_longer_than_the_context_the_first_steps_are_kept(tmp_path: Path) -> None:
    trajectory = tiny.trajectory(0, 9)
    whole = Policy.load(directory(tmp_path / "long")).transcript.encode(trajectory)
    short = Policy.load(directory(tmp_path / "short", context=len(whole.tokens) - 1))
    assert short.transcript.encode(trajectory).steps < whole.steps
    tiniest = Policy.load(directory(tmp_path / "tiny", context=4))
    with pytest.raises(ValueError, match=r"task tiny:0: step 0 alone is longer than .* of 4 tok"):
        tiniest.transcript.encode(trajectory)


# ---------------------------------------------------------------------- how weights are held
def check_against_the_naive_scorer(policy: Policy) -> None:
    """Whole distributions of a trajectory's steps must be those of one row for each candidate."""
    trajectory, kind = tiny.trajectory(1, 6), policy.distribution.kind
    with torch.no_grad():
        for number, every in enumerate(policy.action_log_probs(trajectory)):
            oracle = (
                naive.whole(policy, trajectory, number, kind)
                if policy.distribution.whole
                else naive.trie_constrained(policy, trajectory, number)
            )
            np.testing.assert_allclose(every, oracle, atol=1e-4)


def disagreement(policy: Policy, steps: int) -> float:
    """Largest difference between log-probabilities of rollouts and of training, in nats."""
    acted = [tiny.acted(policy, tiny.trajectory(seed, steps)) for seed in range(4)]
    batch = collate(policy.transcript.encode_many(acted), acted)
    with torch.no_grad():
        now_BS = policy.evaluate(batch).logprobs_BS
    return float((now_BS - batch.behaviour_logprobs_BS)[batch.steps_BS].abs().max())


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_rollouts_and_training_agree_in_bfloat16_as_far_as_it_goes(
    kind: str, tmp_path: Path
) -> None:
    source = PretrainedLM(directory(tmp_path, kind), dtype="bfloat16")
    policy = Policy.build(source, None).eval()
    assert policy.lm.get_input_embeddings().weight.dtype == torch.bfloat16
    # These models' logits have a spread of some nats; 8 significant bits of the last hidden state
    # (size 32) are about 2^-8 of that spread.
    assert disagreement(policy, 8) < 0.1
    assert disagreement(policy.float(), 8) < 1e-4


def test_bfloat16_weights_are_loaded_again_as_such(tmp_path: Path) -> None:
    source = PretrainedLM(directory(tmp_path / "base"), dtype="bfloat16")
    policy = Policy.build(source, None).eval()
    policy.save(tmp_path / "policy")
    again = Policy.load(tmp_path / "policy").eval()
    assert loading_of(again.lm) == loading_of(policy.lm) == source.loading
    with torch.no_grad():
        assert torch.equal(logprobs(policy, TRAJECTORIES), logprobs(again, TRAJECTORIES))


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2)])
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_gradient_checkpointing_keeps_less_and_gives_the_same_gradients(
    kind: str, lora: LoraSettings | None, tmp_path: Path
) -> None:
    base, found, kept = directory(tmp_path / "base", kind), [], []
    for checkpointing in (False, True):
        policy = Policy.build(
            PretrainedLM(base, lora=lora, gradient_checkpointing=checkpointing), None, seed=1
        )
        policy.train()
        for module in policy.lm.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        torch.nn.init.constant_(policy.value_head.output.weight, 0.5)
        saved = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal saved
            saved += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            batch = collate(policy.transcript.encode_many(TRAJECTORIES), TRAJECTORIES)
            evaluation = policy.evaluate(batch)
        (evaluation.logprobs_BS.sum() + evaluation.values_BS.sum()).backward()
        trained = {n: p.grad for n, p in policy.named_parameters() if p.requires_grad}
        found.append(trained)
        kept.append(saved)
        policy.save(tmp_path / "policy")
        again = loading_of(Policy.load(tmp_path / "policy").lm)
        assert again.gradient_checkpointing is checkpointing
    assert found[0].keys() == found[1].keys()
    assert any("lora" in name for name in found[0]) is (lora is not None)
    for name, grad in found[0].items():
        torch.testing.assert_close(found[1][name], grad, atol=1e-5, rtol=1e-4)
    assert kept[1] < kept[0] / 2


def test_four_bits_are_refused_without_adapters_and_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"language_model\.four_bit needs language_model\.lora"):
        PretrainedLM("x", four_bit=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="4-bit weights need an NVIDIA GPU and there is none"):
        PretrainedLM("x", lora=LoraSettings(), four_bit=True)
    Policy.load(directory(tmp_path / "base")).save(tmp_path / "policy")
    about = tmp_path / "policy" / "policy.json"
    record = json.loads(about.read_text())
    record["loading"]["four_bit"] = True
    about.write_text(json.dumps(record))
    with pytest.raises(ValueError, match="4-bit weights need an NVIDIA GPU"):
        Policy.load(tmp_path / "policy")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"need bitsandbytes: pip install"):
        PretrainedLM("x", lora=LoraSettings(), four_bit=True)


@pytest.mark.gpu
def test_four_bit_weights_carry_adapters(tmp_path: Path) -> None:
    source = PretrainedLM(directory(tmp_path / "base"), lora=LoraSettings(rank=2), four_bit=True)
    policy = Policy.build(source, None)
    policy.value_head.to("cuda")
    batch = collate(policy.transcript.encode_many(TRAJECTORIES), TRAJECTORIES).to("cuda")
    policy.evaluate(batch).logprobs_BS.sum().backward()
    assert all("lora" in name for name, p in policy.lm.named_parameters() if p.requires_grad)
    policy.save(tmp_path / "policy")
    again = Policy.load(tmp_path / "policy", "cuda").eval()
    assert loading_of(again.lm).four_bit
    with torch.no_grad():
        one, two = policy.eval().evaluate(batch), again.evaluate(batch)
    torch.testing.assert_close(one.logprobs_BS, two.logprobs_BS, atol=1e-2, rtol=0)


# ---------------------------------------------------------------------- adapters, the reference
def opinionated(policy: Policy) -> Policy:
    """Adapters that have learnt something."""
    with torch.no_grad():
        for name, parameter in policy.lm.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return policy


def adapted(base: str, **settings: object) -> Policy:
    return opinionated(
        Policy.build(PretrainedLM(base, lora=LoraSettings(rank=2, **settings)), None)
    )


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_the_reference_is_the_model_without_its_adapters(kind: str, tmp_path: Path) -> None:
    base = directory(tmp_path, kind)
    policy = adapted(base, dropout=0.5)
    policy.train()
    with torch.no_grad(), policy.reference():
        reference_BS = logprobs(policy, TRAJECTORIES)
        assert not policy.training
    assert policy.training
    assert policy.lm.training
    with torch.no_grad():
        expected_BS = logprobs(Policy.load(base).eval(), TRAJECTORIES)
        now_BS = logprobs(policy.eval(), TRAJECTORIES)
    torch.testing.assert_close(reference_BS, expected_BS, atol=1e-5, rtol=0)
    assert not torch.allclose(now_BS, reference_BS, atol=1e-2)
    logprobs(policy, TRAJECTORIES).sum().backward()  # and the adapters still learn
    grads = [p.grad for n, p in policy.lm.named_parameters() if "lora_A" in n]
    assert grads
    assert all(grad is not None and grad.any() for grad in grads)


def test_the_reference_ends_when_something_fails_in_it(tmp_path: Path) -> None:
    policy = adapted(directory(tmp_path)).eval()
    before = logprobs(policy, TRAJECTORIES).detach()
    with pytest.raises(RuntimeError, match="inside"), policy.reference():
        raise RuntimeError("inside")
    assert torch.equal(before, logprobs(policy, TRAJECTORIES).detach())


def test_a_policy_trained_as_a_whole_says_that_it_has_no_reference() -> None:
    with pytest.raises(ValueError, match=r"train adapters .* or load the first policy a second"):
        tiny.policy().reference().__enter__()


def test_adapter_dropout_acts_in_training_and_never_in_rollouts(tmp_path: Path) -> None:
    policy = adapted(directory(tmp_path), dropout=0.5)
    assert disagreement(policy.eval(), 4) < 1e-4
    policy.train()
    torch.manual_seed(0)
    one, two = (logprobs(policy, TRAJECTORIES).detach() for _ in range(2))
    assert not torch.allclose(one, two, atol=1e-3)
    acted = tiny.acted(policy, tiny.trajectory(0, 3))
    assert acted == tiny.acted(policy.eval(), tiny.trajectory(0, 3))


def test_adapter_settings_reach_the_layers_they_name(tmp_path: Path) -> None:
    policy = adapted(directory(tmp_path), alpha=6, targets=["q_proj", "down_proj"])
    names = {n.split(".")[-4] for n, _ in policy.lm.named_parameters() if "lora_A" in n}
    assert names == {"q_proj", "down_proj"}
    layer = policy.lm.get_base_model().model.layers[0].self_attn.q_proj
    assert layer.scaling["default"] == 3.0  # alpha / rank = 6 / 2
    assert layer.lora_A["default"].weight.shape == (2, 32)
    with pytest.raises(
        ValueError, match=r"lora.targets \['attn'\] cannot .* LlamaForCausalLM.*q_p"
    ):
        adapted(directory(tmp_path), targets=["attn"])
    with pytest.raises(ValueError, match=r"lora\.targets is empty"):
        LoraSettings(targets=[])


@pytest.mark.parametrize(
    "head", [ValueHeadSettings(), ValueHeadSettings(width=5, detach=True, turns=2)]
)
def test_the_value_head_is_saved_and_restored_with_the_adapter(
    head: ValueHeadSettings, tmp_path: Path
) -> None:
    source = PretrainedLM(directory(tmp_path / "base"), lora=LoraSettings(rank=2))
    policy = opinionated(Policy.build(source, None, value_head=head)).eval()
    nn.init.normal_(policy.value_head.output.weight)
    policy.save(tmp_path / "policy")
    again = Policy.load(tmp_path / "policy").eval()
    batch = collate(policy.transcript.encode_many(TRAJECTORIES), TRAJECTORIES)
    with torch.no_grad():
        one, two = policy.evaluate(batch), again.evaluate(batch)
    assert torch.equal(one.values_BS, two.values_BS)
    assert torch.equal(one.logprobs_BS, two.logprobs_BS)
    assert one.values_BS.any()
    assert again.value_head.settings == head
    assert not list((tmp_path / "policy").glob("model*.safetensors"))  # the base is not copied


def test_adapters_on_a_relative_path_are_found_from_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    policy = adapted(directory(Path("models/llama"))).eval()
    policy.save("policy")
    monkeypatch.chdir("elsewhere")
    again = Policy.load("../policy").eval()
    with torch.no_grad():
        assert torch.equal(logprobs(again, TRAJECTORIES), logprobs(policy, TRAJECTORIES))
    assert AutoPeftModelForCausalLM.from_pretrained("../policy")
    (tmp_path / "models").rename(tmp_path / "moved")
    with pytest.raises(
        FileNotFoundError,
        match=r"^the adapters in \.\./policy .*/models/llama.*adapter_config\.json",
    ):
        Policy.load("../policy")


def test_adapters_on_a_name_of_the_hub_keep_it(tmp_path: Path) -> None:
    policy = adapted(directory(tmp_path / "base"))
    for name in ("models/llama", ""):
        policy.lm.peft_config["default"].base_model_name_or_path = name
        policy.save(tmp_path / "policy")
        said = json.loads((tmp_path / "policy/adapter_config.json").read_text())
        assert said["base_model_name_or_path"] == name


# ---------------------------------------------------------------------- what is refused
def test_code_that_comes_with_a_model_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    config = {
        "model_type": "theirs",
        "auto_map": {"AutoConfig": "theirs.C", "AutoModelForCausalLM": "theirs.M"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"auto_map": {"AutoTokenizer": ["theirs.T", None]}})
    )
    with pytest.raises(ValueError, match=r"language model .* needs code .* which is never run"):
        Policy.load(tmp_path)
    with pytest.raises(ValueError, match="which is never run"):
        Policy.build(PretrainedLM(str(tmp_path)), None)
    assert not (tmp_path / "ran").exists()


def test_weights_that_are_no_safetensors_and_directories_that_are_no_models(tmp_path: Path) -> None:
    base = Path(directory(tmp_path / "base"))
    weights = base / "model.safetensors"
    weights.rename(base / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"^language model .*base cannot be read: [^\n]*$"):
        Policy.load(base)
    (base / "config.json").write_text("{}")
    with pytest.raises((ValueError, FileNotFoundError), match=r"^language model .* cannot be read"):
        Policy.load(base)


def wrapped(lm: nn.Module) -> Policy:
    return Policy(lm, tiny.tokenizer(), value_head=ValueHeadSettings().build(32, 0))


SHAPE = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "initializer_range": 0.2}
LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 512}
READ_ALONE: dict[str, tuple[PreTrainedConfig, str]] = {
    # Its attention masks the keys' slots itself, as if all rows ended at the same one.
    "gpt_neo": (
        GPTNeoConfig(
            vocab_size=300,
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            attention_types=[[["global", "local"], 1]],
            max_position_embeddings=2048,
            window_size=16,
            initializer_range=0.2,
        ),
        "hidden states are off by",
    ),
    # Biases that grow with the distance between slots, whatever position a token is given.
    "mpt": (
        MptConfig(
            vocab_size=300,
            d_model=32,
            n_layers=2,
            n_heads=4,
            initializer_range=0.2,
            max_position_embeddings=512,
        ),
        "hidden states are off by",
    ),
    "falcon with alibi": (
        FalconConfig(**SHAPE | LAYERS, alibi=True),
        r"ValueError: too many values to unpack \(expected 2\)",
    ),
    # A state runs along the row.
    "lfm2": (
        Lfm2Config(
            **SHAPE | LAYERS,
            num_key_value_heads=2,
            pad_token_id=None,
            layer_types=["conv", "full_attention"],
        ),
        "ValueError: Cannot get conv state",
    ),
    "qwen3_next": (
        Qwen3NextConfig(
            **SHAPE | LAYERS,
            num_key_value_heads=2,
            head_dim=8,
            linear_num_key_heads=2,
            linear_num_value_heads=2,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
            num_experts=0,
            layer_types=["linear_attention", "full_attention"],
        ),
        "",
    ),
}


@pytest.mark.parametrize("prompted", [False, True])
@pytest.mark.parametrize("distribution", [TrieConstrained(), SequenceScore()])
@pytest.mark.parametrize("kind", READ_ALONE)
def test_rows_are_read_alone_where_they_cannot_share_a_pass(
    kind: str, distribution: ActionDistribution, prompted: bool
) -> None:
    config, why = READ_ALONE[kind]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        lm = AutoModelForCausalLM.from_config(config)
    embeddings = lm.get_input_embeddings().weight
    prompt = LearnedTaskEmbedding(["corridor"]).build(embeddings, 0) if prompted else None
    head = ValueHeadSettings().build(32, 0)
    with pytest.warns(UserWarning, match=rf"reads every row alone .*slower: .*{why}"):
        policy = Policy(
            lm, tiny.tokenizer(), value_head=head, distribution=distribution, soft_prompt=prompt
        ).eval()
    assert disagreement(policy, 4) < 1e-4
    if prompted:
        return
    check_against_the_naive_scorer(policy)


def test_whole_actions_teach_a_model_whose_rows_are_read_alone() -> None:
    config, _ = READ_ALONE["mpt"]
    lm = AutoModelForCausalLM.from_config(config)
    with pytest.warns(UserWarning, match="reads every row alone"):
        policy = Policy(
            lm,
            tiny.tokenizer(),
            value_head=ValueHeadSettings().build(32, 0),
            distribution=SequenceScore(),
        )
    logprobs(policy, TRAJECTORIES).sum().backward()
    assert all(p.grad is not None for p in lm.parameters())


def test_a_model_that_forgets_keys_in_long_rows_is_refused() -> None:
    lm = AutoModelForCausalLM.from_config(DogeConfig(**SHAPE | LAYERS, keep_window_size=128))
    with pytest.raises(
        ValueError, match=r"^DogeForCausalLM attends to 128 keys .*keep_window_size"
    ):
        wrapped(lm)


def test_a_model_that_sees_what_comes_after_is_refused() -> None:
    lm = AutoModelForCausalLM.from_config(BertGenerationConfig(**SHAPE | LAYERS))
    with pytest.raises(
        ValueError,
        match=r"^BertGenerationDecoder reads a token otherwise when others follow it: .*; use a ",
    ):
        wrapped(lm)
    assert lm.training  # as it was


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(**SHAPE | LAYERS, num_key_value_heads=2),
        FalconConfig(**SHAPE | LAYERS),
        OPTConfig(**LAYERS, vocab_size=300, hidden_size=32, ffn_dim=64, word_embed_proj_dim=32),
        Gemma3TextConfig(**SHAPE | LAYERS, num_key_value_heads=2, head_dim=8, sliding_window=300),
        Qwen3Config(**SHAPE | LAYERS, num_key_value_heads=2, head_dim=8),
        # Logits are scaled or capped, by much, so that it would show.
        CohereConfig(**SHAPE | LAYERS, logit_scale=0.3),
        Cohere2Config(**SHAPE | LAYERS, logit_scale=0.3, num_key_value_heads=2),
        GraniteConfig(**SHAPE | LAYERS, logits_scaling=3.0),
        Gemma2Config(
            **SHAPE | LAYERS,
            num_key_value_heads=2,
            head_dim=8,
            sliding_window=300,
            final_logit_softcapping=2.0,
        ),
    ],
    ids=lambda config: config.model_type,
)
@pytest.mark.parametrize("distribution", [TrieConstrained(), SequenceScore()])
def test_models_of_other_kinds_equal_the_naive_scorer_when_rows_are_packed(
    config: PreTrainedConfig, distribution: ActionDistribution
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        lm = AutoModelForCausalLM.from_config(config)
    head = ValueHeadSettings().build(32, 0)
    policy = Policy(lm, tiny.tokenizer(), value_head=head, distribution=distribution).eval()
    check_against_the_naive_scorer(policy)
    assert disagreement(policy, 4) < 1e-4


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_weights_that_are_not_numbers_are_called_that(kind: str) -> None:
    lm = tiny.language_model(kind, 300)
    with torch.no_grad():
        lm.get_output_embeddings().weight[7] = float("nan")
    name = type(lm).__name__
    with pytest.raises(
        ValueError, match=rf"^the logits of {name} are not finite .* weights are damaged.*; go back"
    ):
        wrapped(lm)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("distribution", [TrieConstrained(), SequenceScore()])
def test_logits_that_are_not_finite_are_reported_with_task_and_step(
    distribution: ActionDistribution, descending: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if descending:
        monkeypatch.setattr("retro_lightning.rollout.session._SMALL_TREE", -1)
    plain = tiny.policy()
    policy = Policy(
        plain.lm, plain.tokenizer, value_head=plain.value_head, distribution=distribution
    ).eval()
    make = functools.partial(CorridorEnv, length=9)
    jobs = [Job(task, 0) for task in make_tasks("corridor", make, "train", 4)]
    damaged = jobs[2].task.task_id
    embeddings = policy.lm.get_input_embeddings()

    def damage(module, inputs, output):  # one row of the batch, as a poisoned embedding would
        if output.shape[0] == 4 and output.shape[1] > 1:
            output[2] = float("nan")
        return output

    embeddings.register_forward_hook(damage)
    with (
        torch.no_grad(),
        pytest.raises(
            ValueError,
            match=rf"^task {damaged}, step 0: the language model's logits are not finite",
        ),
    ):
        list(collect(policy, {"corridor": make}, jobs, run="run", seed=1))
    with torch.no_grad():
        policy.lm.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"^task tiny:0, step 0: the language model's logits are"):
        policy.action_log_probs(tiny.trajectory(0, 1))
