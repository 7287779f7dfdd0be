"""Recall pretraining: what is asked, what the start sets up, and that it is learnt."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from retro_lightning.policy.language_model import LlamaFromConfig
from retro_lightning.policy.recall import (
    Recall,
    answers_batch,
    learn_recall_,
    pairs_batch,
    start_near_induction_,
)
from retro_lightning.policy.tokenizer import train_tokenizer

WORDS = torch.arange(100, 160)


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def llama(layers: int = 3, width: int = 32) -> LlamaForCausalLM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=160,
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=layers,
                num_attention_heads=4,
                max_position_embeddings=64,
                initializer_range=0.05,
                tie_word_embeddings=True,
                attention_bias=True,
                attn_implementation="eager",
                pad_token_id=None,
            )
        )


@given(st.integers(0, 1000), st.integers(29, 60))
def test_every_answer_is_the_latest_value_of_a_key_that_is_asked_for(seed: int, words: int) -> None:
    tokens_BT, positions = answers_batch(WORDS[:words], generator(seed))
    assert tokens_BT.shape == (32, 60)
    assert positions.tolist() == [12, 13, 27, 28, 42, 43, 57, 58]
    for row in tokens_BT.tolist():
        latest: dict[int, int] = {}
        for start in range(0, 60, 15):
            listed, asked, marker = (
                row[start : start + 10],
                row[start + 10 : start + 12],
                row[start + 12],
            )
            latest.update(zip(listed[::2], listed[1::2], strict=True))
            assert marker == row[12]
            assert marker not in latest
            assert asked[0] != asked[1]
            assert row[start + 13 : start + 15] == [latest[key] for key in asked]


def test_keys_return_with_other_values() -> None:
    row = answers_batch(WORDS, generator())[0][0].tolist()
    keys = [key for start in range(0, 60, 15) for key in row[start : start + 10 : 2]]
    values = [value for start in range(0, 60, 15) for value in row[start + 1 : start + 10 : 2]]
    assert 5 < len(set(keys)) <= 8 < len(keys)
    assert len(set(values)) == len(values) == 20
    assert not set(keys) & set(values)


@given(st.integers(0, 1000))
def test_pairs_return_in_another_order(seed: int) -> None:
    tokens_BT, positions = pairs_batch(WORDS, generator(seed))
    assert tokens_BT.shape == (32, 32)
    assert positions.tolist() == list(range(16, 32, 2))
    for row in tokens_BT.tolist():
        first, again = (
            list(zip(half[::2], half[1::2], strict=True)) for half in (row[:16], row[16:])
        )
        assert len({token for pair in first for token in pair}) == 16
        assert sorted(first) == sorted(again)
    assert (tokens_BT[:, :16] != tokens_BT[:, 16:]).any()


def test_too_few_tokens_are_named_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"needs 16 tokens.*has 15"):
        pairs_batch(WORDS[:15], generator())
    with pytest.raises(ValueError, match=r"needs 29 tokens.*has 28.*vocabulary_size"):
        answers_batch(WORDS[:28], generator())


def test_the_start_looks_at_the_token_before_and_then_for_the_key() -> None:
    model = llama()
    start_near_induction_(model, generator())
    tokens_BT, positions = answers_batch(WORDS, generator())
    with torch.no_grad():
        first, second, third = model(input_ids=tokens_BT, output_attentions=True).attentions
    for attention in (first, third):
        assert attention[:, :2].diagonal(offset=-1, dim1=2, dim2=3).mean() > 0.8
    # Where a key is asked for, the second block attends to what followed it more than by chance.
    asked = int(positions[0]) - 2
    place = (tokens_BT[:, :10] == tokens_BT[:, asked, None]).int().argmax(dim=1) + 1
    found = second[torch.arange(32), :, asked, place].mean()
    assert found > 2 / (asked + 1)


def test_the_start_needs_two_layers_and_biases() -> None:
    with pytest.raises(ValueError, match="at least 2 layers"):
        start_near_induction_(llama(layers=1), generator())


def test_another_recall_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="recall is 'words'; give answers or pairs"):
        LlamaFromConfig(recall="words")  # type: ignore[arg-type]


def test_weights_do_not_depend_on_the_device_that_a_trainer_builds_on() -> None:
    tokenizer = train_tokenizer([" ".join(f"word{n}" for n in range(60))] * 3, 400)

    def build() -> dict[str, torch.Tensor]:
        source = LlamaFromConfig(hidden_size=16, layers=2, heads=2, recall_steps=2)
        return source.build(tokenizer, seed=1)[0].state_dict()

    plain = build()
    with torch.device("meta"):
        elsewhere = build()
    assert all(torch.equal(plain[name], elsewhere[name]) for name in plain)


@pytest.mark.slow
@pytest.mark.parametrize("recall", ["answers", "pairs"])
def test_recall_is_learnt(recall: Recall) -> None:
    model = llama(width=64)
    start_near_induction_(model, generator())
    loss = learn_recall_(model, WORDS, recall=recall, steps=250, generator=generator())
    assert loss < 0.3 * math.log(len(WORDS))
