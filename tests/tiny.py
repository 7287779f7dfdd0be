"""Tiny language models, tokenizers and random trajectories for tests of the policy and rollouts."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from retro_lightning.policy.policy import Policy
from retro_lightning.policy.tokenizer import train_tokenizer
from retro_lightning.policy.value_head import ValueHead
from retro_lightning.trajectory import Step, Task, Trajectory

KINDS = ("llama", "gpt2", "qwen2")
ACTIONS = ("turn left", "turn right", "go", "go on", "go on north", "pick up the key", "né à l'est")
WORDS = ("red", "green", "blue", "ball", "key", "door", "wall", "left", "near", "far", "nothing")


def text(rng: np.random.Generator, words: int) -> str:
    """Random words."""
    return " ".join(rng.choice(WORDS, words))


@functools.cache
def tokenizer(pad_is_end: bool = False) -> PreTrainedTokenizerFast:
    """A small trained tokenizer; optionally one whose pad token is its end-of-action token."""
    rng = np.random.default_rng(0)
    texts = [f"Task: {text(rng, 5)}\n" for _ in range(20)]
    texts += [f"Observation: {text(rng, 9)}.\nAction:" for _ in range(100)]
    texts += [f" {action}" for action in ACTIONS for _ in range(5)]
    made = train_tokenizer(texts, 300)
    if pad_is_end:
        made.pad_token = "Ċ"
    return made


def language_model(kind: str, vocab_size: int, context: int = 512, seed: int = 0) -> nn.Module:
    """A random model of one architecture, with weights large enough to have opinions."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if kind == "gpt2":
            return GPT2LMHeadModel(
                GPT2Config(
                    vocab_size=vocab_size,
                    n_positions=context,
                    n_embd=32,
                    n_layer=2,
                    n_head=4,
                    initializer_range=0.2,
                    attn_pdrop=0.0,
                    embd_pdrop=0.0,
                    resid_pdrop=0.1,
                )
            )
        shape = {
            "vocab_size": vocab_size,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": context,
            "initializer_range": 0.2,
        }
        if kind == "llama":
            return LlamaForCausalLM(LlamaConfig(**shape))
        return Qwen2ForCausalLM(Qwen2Config(**shape, tie_word_embeddings=True))


def policy(kind: str = "llama", context: int = 512, pad_is_end: bool = False) -> Policy:
    """A random policy whose value head is not zero."""
    tok = tokenizer(pad_is_end)
    head = ValueHead(32, 8)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        nn.init.normal_(head.output.weight)
    return Policy(language_model(kind, len(tok), context), tok, value_head=head).eval()


def trajectory(
    seed: int, steps: int, *, actions: tuple[str, ...] = ACTIONS, truncation: str | None = None
) -> Trajectory:
    """Random observations and actions."""
    rng = np.random.default_rng(seed)
    return Trajectory(
        task=Task(
            task_id=f"tiny:{seed}",
            family="tiny",
            instruction=text(rng, 4),
            seed=seed,
            split="train",
        ),
        steps=tuple(
            Step(
                observation=text(rng, int(rng.integers(1, 12))),
                valid_actions=actions,
                action=actions[int(rng.integers(len(actions)))],
                reward=float(rng.normal()),
            )
            for _ in range(steps)
        ),
        final_observation=text(rng, 3),
        final_valid_actions=actions,
        terminated=truncation is None,
        truncated=truncation is not None,
        truncation=truncation,  # type: ignore[arg-type]
        success=False,
        source="scripted:random",
        behaviour_id="random",
        run="test",
        attempt=0,
    )
