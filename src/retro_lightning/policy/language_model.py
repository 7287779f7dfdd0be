"""Behaviour half: where a language model comes from: a configuration, or a pretrained one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from retro_lightning.policy.loading import Loading, load_causal_lm, load_tokenizer
from retro_lightning.policy.recall import (
    RECALLS,
    Recall,
    learn_recall_,
    start_near_induction_,
    whole_words,
)

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
        recall_steps: Optimiser steps of recall pretraining (``policy/recall.py``), about 40 ms
            each. 0 = none: plain random weights.
        recall: What is recalled: ``answers`` to what is asked for, for a policy that chooses
            actions, or ``pairs``, what follows a thing that is named again, for one that writes
            text.
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
        recall: Recall = "answers",
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
        if recall not in RECALLS:
            raise ValueError(f"language_model.recall is {recall!r}; give {' or '.join(RECALLS)}")
        self.hidden_size, self.layers, self.heads = hidden_size, layers, heads
        self.intermediate_size = intermediate_size or 3 * hidden_size
        self.context, self.initializer_range = context, initializer_range
        self.tie_embeddings, self.rope_theta = tie_embeddings, rope_theta
        self.recall_steps, self.recall = recall_steps, recall

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
        # A trainer's device and initialisation contexts would slow every call of the pretraining,
        # and the weights would depend on the device.
        with torch.random.fork_rng(devices=[]), torch._C.DisableTorchFunction():
            torch.default_generator.manual_seed(seed)
            model = LlamaForCausalLM(config)
            if self.recall_steps:
                generator = torch.Generator().manual_seed(seed)
                start_near_induction_(model, generator)
                words = whole_words(tokenizer)
                learn_recall_(
                    model, words, recall=self.recall, steps=self.recall_steps, generator=generator
                )
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
            ValueError: If the rank is below 1, the dropout outside [0, 1) or no layer is named.
        """
        if self.rank < 1:
            raise ValueError(f"lora.rank is {self.rank}; it must be at least 1")
        if self.targets is not None and not self.targets:
            raise ValueError("lora.targets is empty; name layers, or give null for peft's choice")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"lora.dropout is {self.dropout}; it must be in [0, 1)")

    def attach(self, model: nn.Module) -> nn.Module:
        """The model with fresh adapters.

        Raises:
            ValueError: If the model has no layer of the names in ``targets``.
        """
        from peft import LoraConfig, TaskType, get_peft_model

        config = LoraConfig(
            task_type=TaskType.CAUSAL_LM,
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self.targets,
        )
        try:
            adapted: nn.Module = get_peft_model(model, config)
        except ValueError as error:
            layers = sorted({n.rsplit(".", 1)[-1] for n, m in model.named_modules() if _linear(m)})
            raise ValueError(
                f"lora.targets {self.targets} cannot be adapted in {type(model).__name__}; its "
                f"linear layers are {layers}"
            ) from error
        return adapted


def _linear(module: nn.Module) -> bool:
    """Linear layers, GPT-2's transposed ones included."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


class PretrainedLM(LanguageModelSource):
    """A Hugging Face causal language model with its own tokenizer.

    Args:
        name: Local directory or hub name. Weights must be safetensors; code that comes with a model
            is never run.
        lora: Train low-rank adapters instead of the whole model; None = the whole model.
        dtype: Number format of the weights. ``bfloat16`` halves the memory and keeps 8 significant
            bits: train adapters on it, which stay float32; updates of a whole model that are
            smaller than 1/256 of a weight are lost.
        four_bit: Hold the frozen weights in 4 bits: a quarter of bfloat16's memory, slower, less
            exact. Needs ``lora``, an NVIDIA GPU and the extra ``four-bit``.
        gradient_checkpointing: Keep only each block's input for the backward pass and compute the
            rest again: far less memory, about a third more time; the same gradients.
    """

    needs_tokenizer = False

    def __init__(
        self,
        name: str,
        lora: LoraSettings | None = None,
        dtype: Literal["float32", "bfloat16"] = "float32",
        four_bit: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        if four_bit and lora is None:
            raise ValueError(
                "language_model.four_bit needs language_model.lora: 4-bit weights cannot be "
                "trained, adapters on them can"
            )
        self.name, self.lora = name, lora
        self.loading = Loading(dtype, four_bit, gradient_checkpointing)
        self.loading.check()

    def build(
        self, tokenizer: PreTrainedTokenizerBase | None, seed: int
    ) -> tuple[nn.Module, PreTrainedTokenizerBase]:
        """The pretrained model, with adapters that are the same for the same seed."""
        model = load_causal_lm(self.name, self.loading)
        if self.lora is not None:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed)
                model = self.lora.attach(model)
        return model, load_tokenizer(self.name)
