"""Behaviour half: a tokenizer trained on the environments' own text, and tokenizer fingerprints."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

_PIECES = r"\s*[\p{L}\p{N}_-]+:?|\s*[^\s\p{L}\p{N}_-]+|\s+"
"""A word with the white space before it and a colon after it; punctuation; left-over space."""

_PROBE = (
    "Task: put the 3 blue_keys next to the door-2 (né à l'est)\nObservation: ...\nAction: go_x 1"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer in which frequent words are one token each.

    Lossless: every text decodes to itself, bytes that were never seen included. The same texts give
    the same tokenizer.

    Args:
        texts: Text as the policy will see it.
        vocab_size: Most tokens. Higher = shorter sequences, but more and rarer embeddings to learn.

    Returns:
        A tokenizer with the special tokens ``<bos>``, ``<eos>`` and ``<pad>``.

    Raises:
        ValueError: If ``vocab_size`` leaves no room beside the 256 bytes and 3 special tokens.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<bos>", "<eos>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if vocab_size < len(alphabet) + len(special):
        raise ValueError(
            f"a byte-level tokenizer needs at least {len(alphabet) + len(special)} tokens, "
            f"vocab_size is {vocab_size}: raise it"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of what the ids mean: the vocabulary and how a probe text is cut (32 hex digits).

    Recorded token ids are used only under the fingerprint they carry.
    """
    vocabulary = sorted(tokenizer.get_vocab().items())
    probe = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    text = json.dumps([vocabulary, probe], ensure_ascii=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
