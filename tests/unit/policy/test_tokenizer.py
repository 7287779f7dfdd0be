"""The trained tokenizer: lossless, deterministic, words with their space in one piece."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

import tiny
from retro_lightning.policy.tokenizer import fingerprint, train_tokenizer

TEXTS = ["Observation: the red-ish key_2 is near.\nAction:", " pick-up the red-ish key_2"] * 20


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=40))
def test_every_text_decodes_to_itself(text: str) -> None:
    tokenizer = tiny.tokenizer()
    ids = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    if not any(special in text for special in tokenizer.all_special_tokens):
        assert tokenizer.decode(ids) == text


def test_pieces_are_words_with_their_space_hyphen_and_colon() -> None:
    tokenizer = train_tokenizer(TEXTS, 400)
    pieces = [tokenizer.decode([i]) for i in tokenizer.encode(TEXTS[0])]
    assert pieces == [
        "Observation:",
        " the",
        " red-ish",
        " key_2",
        " is",
        " near",
        ".",
        "\nAction:",
    ]


def test_same_texts_same_tokenizer_and_fingerprint() -> None:
    one, two = train_tokenizer(TEXTS, 300), train_tokenizer(TEXTS, 300)
    assert one.get_vocab() == two.get_vocab()
    assert fingerprint(one) == fingerprint(two)
    assert fingerprint(train_tokenizer(TEXTS, 290)) != fingerprint(one)


def test_fingerprint_survives_saving_and_use(tmp_path) -> None:
    tokenizer = train_tokenizer(TEXTS, 300)
    before = fingerprint(tokenizer)
    tokenizer(["a", "a b c"], padding=True, truncation=True, max_length=2)
    assert fingerprint(tokenizer) == before
    tokenizer.save_pretrained(tmp_path)
    assert fingerprint(AutoTokenizer.from_pretrained(tmp_path)) == before


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="vocab_size is 100: raise it"):
        train_tokenizer(TEXTS, 100)
