"""Behaviour half: where the language model comes from: a configuration, or a pretrained one."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from retro_lightning.policy.recall import learn_recall_, start_near_induction_, whole_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class LanguageModelSource(ABC):
    """Where a language model and its tokenizer come from.

    Attributes:
        needs_tokenizer: Whether ``build`` must be given a tokenizer, which is then trained on the
            environments' text.
    """

    needs_tokenizer: bool

    @abstractmethod
    def build(
        self, tokenizer: PreTrainedTokenizerBase | None, seed: int
    ) -> tuple[nn.Module, PreTrainedTokenizerBase]:
        """The model and its tokenizer; the global random generator is left alone.

        Args:
            tokenizer: The trained tokenizer; None where ``needs_tokenizer`` is False.
            seed: Seed of the random weights.
        """


class LlamaFromConfig(LanguageModelSource):
    """A Llama with random weights and a tokenizer trained on the environments' text.

    Args:
        hidden_size: Width of the hidden states. More = more capacity; time grows with its square.
        layers: Transformer blocks. More = more steps of reasoning per token; time grows linearly.
        heads: Attention heads; must divide ``hidden_size``. More = more things attended to at once,
            each with fewer dimensions.
        intermediate_size: Width inside the feed-forward blocks; None = 3 times ``hidden_size``.
        context: Most tokens of a trajectory. Longer episodes end in ``context_full``.
        initializer_range: Standard deviation of the initial weights. Higher = stronger signals from
            the first step on; small models bear more than large ones.
        tie_embeddings: Use one matrix for input and output embeddings: fewer parameters.
        rope_theta: Base of the rotary positions. Lower = sharper sense of nearby positions; must
            grow with ``context``.
        recall_steps: Optimiser steps of recall pretraining (``policy/recall.py``), about 30 ms
            each. 0 = none: plain random weights.
    """

    needs_tokenizer = True

    def __init__(
        self,
        hidden_size: int = 64,
        layers: int = 4,
        heads: int = 4,
        intermediate_size: int | None = None,
        context: int = 1024,
        initializer_range: float = 0.02,
        tie_embeddings: bool = False,
        rope_theta: float = 10_000.0,
        recall_steps: int = 0,
    ) -> None:
        sizes = {"hidden_size": hidden_size, "layers": layers, "heads": heads, "context": context}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"language_model.{name} is {size}; it must be at least 1")
        if hidden_size % heads or (hidden_size // heads) % 2:
            raise ValueError(
                f"language_model.hidden_size {hidden_size} cannot be split over {heads} heads of "
                "an even size; choose another number of heads"
            )
        self.hidden_size, self.layers, self.heads = hidden_size, layers, heads
        self.intermediate_size = intermediate_size or 3 * hidden_size
        self.context, self.initializer_range = context, initializer_range
        self.tie_embeddings, self.rope_theta = tie_embeddings, rope_theta
        self.recall_steps = recall_steps

    def build(
        self, tokenizer: PreTrainedTokenizerBase | None, seed: int
    ) -> tuple[nn.Module, PreTrainedTokenizerBase]:
        """A fresh model, the same for the same seed."""
        from transformers.models.llama.configuration_llama import LlamaConfig
        from transformers.models.llama.modeling_llama import LlamaForCausalLM

        if tokenizer is None:
            raise ValueError("LlamaFromConfig needs a tokenizer: train one, or use PretrainedLM")
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            max_position_embeddings=self.context,
            initializer_range=self.initializer_range,
            tie_word_embeddings=self.tie_embeddings,
            attention_bias=self.recall_steps > 0,
            rope_parameters={"rope_type": "default", "rope_theta": self.rope_theta},
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=None,  # with a padding index that token's embedding would never be learnt
        )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            model = LlamaForCausalLM(config)
        if self.recall_steps:
            generator = torch.Generator().manual_seed(seed)
            start_near_induction_(model, generator)
            words = whole_words(tokenizer)
            learn_recall_(model, words, steps=self.recall_steps, generator=generator)
        return model, tokenizer


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """Low-rank adapters: only these are trained, the model stays as it is.

    Attributes:
        rank: Rank of each adapter. Higher = more capacity and memory.
        alpha: Scale; adapters act with weight ``alpha / rank``. Higher = larger effective steps.
        dropout: Share of adapter inputs dropped in training, in [0, 1).
        targets: Names of the layers to adapt; None = peft's choice for the architecture.
    """

    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0
    targets: list[str] | None = None

    def __post_init__(self) -> None:
        """Refuse impossible numbers.

        Raises:
            ValueError: If the rank is below 1 or the dropout outside [0, 1).
        """
        if self.rank < 1:
            raise ValueError(f"lora.rank is {self.rank}; it must be at least 1")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"lora.dropout is {self.dropout}; it must be in [0, 1)")

    def attach(self, model: nn.Module) -> nn.Module:
        """The model with fresh adapters."""
        from peft import LoraConfig, TaskType, get_peft_model

        config = LoraConfig(
            task_type=TaskType.CAUSAL_LM,
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self.targets,
        )
        adapted: nn.Module = get_peft_model(model, config)
        return adapted


class PretrainedLM(LanguageModelSource):
    """A Hugging Face causal language model with its own tokenizer.

    Args:
        name: Local directory or hub name. Weights must be safetensors.
        lora: Train low-rank adapters instead of the whole model; None = the whole model.
        dtype: Number format of the weights.
    """

    needs_tokenizer = False

    def __init__(
        self,
        name: str,
        lora: LoraSettings | None = None,
        dtype: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        self.name, self.lora, self.dtype = name, lora, dtype

    def build(
        self, tokenizer: PreTrainedTokenizerBase | None, seed: int
    ) -> tuple[nn.Module, PreTrainedTokenizerBase]:
        """The pretrained model, with adapters that are the same for the same seed."""
        model = load_causal_lm(self.name, getattr(torch, self.dtype))
        if self.lora is not None:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed)
                model = self.lora.attach(model)
        return model, load_tokenizer(self.name)


def load_causal_lm(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A causal LM from a local directory or the hub; adapters on their base where there are some.

    Raises:
        FileNotFoundError: If the name looks like a path and nothing is there.
    """
    path = Path(name)
    if (name.startswith((".", "/", "~")) or path.is_absolute()) and not path.is_dir():
        raise FileNotFoundError(f"no policy or Hugging Face directory at {name}")
    if (path / "adapter_config.json").is_file():
        from peft import PeftModel

        base = json.loads((path / "adapter_config.json").read_text())["base_model_name_or_path"]
        adapted: nn.Module = PeftModel.from_pretrained(
            load_causal_lm(base, dtype),
            name,
            is_trainable=True,
            use_safetensors=True,
        )
        return adapted
    with no_progress_bar():
        model: nn.Module = _model_class(path).from_pretrained(
            name, dtype=dtype, use_safetensors=True
        )
    return model.train()


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Keeps transformers from drawing progress bars for loading and saving."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _model_class(path: Path) -> Any:
    """The Llama class where a local configuration says so (a fast import), else any."""
    config = path / "config.json"
    if config.is_file() and json.loads(config.read_text()).get("model_type") == "llama":
        from transformers.models.llama.modeling_llama import LlamaForCausalLM

        return LlamaForCausalLM
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a local directory or hub name."""
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name)
    return tokenizer


def causal_lm(model: nn.Module) -> Any:
    """The causal LM itself, out of its adapter wrapper if there is one (adapters stay active)."""
    unwrap = getattr(model, "get_base_model", None)
    return unwrap() if unwrap is not None else model


def hidden_size(model: nn.Module) -> int:
    """Size of the hidden states."""
    return int(causal_lm(model).config.get_text_config().hidden_size)


def context_length(model: nn.Module) -> int:
    """Most tokens of a sequence: the position limit, or the attention window if that is less."""
    config = causal_lm(model).config.get_text_config()
    length = int(config.max_position_embeddings)
    layers = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    windowed = layers is None or "sliding_attention" in layers
    return min(length, int(window)) if window and windowed else length
