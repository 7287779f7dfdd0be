"""Tiny language models, tokenizers and random trajectories for tests of the policy and rollouts."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
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
from retro_lightning.policy.value_head import ValueHead, ValueHeadSettings
from retro_lightning.rollout.session import Session
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


@functools.cache
def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, no newline, no beginning of sequence, pad = eos; unknown words are one."""
    words = ["<eos>", "[UNK]", "Task:", "Observation:", "Action:", "go", "right", "on", *WORDS]
    words += [word for action in ACTIONS for word in action.split()]
    numbers = {word: i for i, word in enumerate(dict.fromkeys(words))}
    backend = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<eos>")


@functools.cache
def merging_tokenizer() -> PreTrainedTokenizerFast:
    """Byte pairs across words and lines: " go" after "Action:" is not two pieces to it; no pad."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<eos>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = [f"\nAction: {action}\nObservation: red" for action in ACTIONS for _ in range(9)]
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")


TOKENIZERS = {"bytes": tokenizer, "words": word_tokenizer, "merging": merging_tokenizer}


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


def policy(
    kind: str = "llama",
    context: int = 512,
    pad_is_end: bool = False,
    tok: PreTrainedTokenizerFast | None = None,
) -> Policy:
    """A random policy whose value head is not zero."""
    tok = tok if tok is not None else tokenizer(pad_is_end)
    head = ValueHead(32, ValueHeadSettings(8, turns=3))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        nn.init.normal_(head.output.weight)
        assert head.turn is not None
        nn.init.normal_(head.turn.weight)
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


def acted(policy: Policy, script: Trajectory, seed: int = 0) -> Trajectory:
    """What a policy does in the place of a scripted trajectory, in a session of its own."""
    session, rng = Session(policy, 1), np.random.default_rng(seed)
    session.start(0, script.task)
    steps = []
    for step in script.steps:
        assert step.valid_actions is not None
        context = policy.transcript.context(step.observation, script.task, first=not steps)
        tries = [policy.transcript.trie(step.valid_actions)]
        [choice] = session.act([0], [context], tries, [rng])
        steps.append(
            dataclasses.replace(
                step,
                action=step.valid_actions[choice.number],
                log_prob=choice.log_prob,
                log_probs=choice.log_probs,
                generation=choice.generation,
            )
        )
    return dataclasses.replace(
        script, steps=tuple(steps), tokenizer=policy.transcript.fingerprint, policy_version=0
    )
