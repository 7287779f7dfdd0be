"""Behaviour half: reads Hugging Face causal LMs and tokenizers, and says what they are.

Weights are safetensors and code is transformers' own: ``trust_remote_code`` is never set.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Dtype = Literal["float32", "bfloat16", "float16"]

_BARE_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast")
"""Classes of tokenizers that are what their ``tokenizer.json`` says and nothing else."""


@dataclass(frozen=True, slots=True)
class Loading:
    """How a model's weights are held in memory.

    Attributes:
        dtype: Number format of the weights (4-bit weights are multiplied in it).
        four_bit: Hold the weights of the linear layers in 4 bits (NF4, double quantisation).
        gradient_checkpointing: Compute activations again in the backward pass instead of keeping
            them.
    """

    dtype: Dtype = "float32"
    four_bit: bool = False
    gradient_checkpointing: bool = False

    def check(self) -> None:
        """Refuse what this machine cannot do.

        Raises:
            ValueError: If 4-bit weights are asked for without a GPU or without bitsandbytes.
        """
        if self.four_bit and not torch.cuda.is_available():
            raise ValueError(
                "4-bit weights need an NVIDIA GPU and there is none here: set "
                "model.language_model.init_args.four_bit to false"
            )
        if self.four_bit and importlib.util.find_spec("bitsandbytes") is None:
            raise ValueError(
                "4-bit weights need bitsandbytes: pip install 'retro_lightning[four-bit]'"
            )

    def arguments(self) -> dict[str, Any]:
        """Arguments of ``from_pretrained``."""
        dtype = getattr(torch, self.dtype)
        if not self.four_bit:
            return {"dtype": dtype}
        from transformers import BitsAndBytesConfig

        quantisation = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
        device = torch.cuda.current_device()
        return {"dtype": dtype, "quantization_config": quantisation, "device_map": {"": device}}

    def checkpoint_(self, model: nn.Module) -> nn.Module:
        """Switch gradient checkpointing on in a model, if that is asked for."""
        if self.gradient_checkpointing:
            causal_lm(model).activation_checkpointing_enable({"use_reentrant": False})
        return model


def loading_of(model: nn.Module) -> Loading:
    """How a model's weights are held in memory."""
    lm = causal_lm(model)
    dtype = str(lm.get_input_embeddings().weight.dtype).removeprefix("torch.")
    return Loading(
        dtype=dtype,  # type: ignore[arg-type]
        four_bit=bool(getattr(lm, "is_loaded_in_4bit", False)),
        gradient_checkpointing=bool(lm.is_activation_checkpointing),
    )


def load_causal_lm(name: str, loading: Loading | None = None) -> nn.Module:
    """A causal LM from a local directory or the hub; adapters on their base where there are some.

    Args:
        name: Local directory or hub name.
        loading: How to hold the weights; None = float32 and nothing else.

    Raises:
        FileNotFoundError: If there is no such directory, hub model or weights file.
        ValueError: If it is no causal LM that transformers knows, or cannot be held that way here.
    """
    loading = loading if loading is not None else Loading()
    loading.check()
    path = Path(name)
    if (name.startswith((".", "/", "~")) or path.is_absolute()) and not path.is_dir():
        raise FileNotFoundError(f"no policy or Hugging Face directory at {name}")
    if (path / "adapter_config.json").is_file():
        from peft import PeftModel

        base = json.loads((path / "adapter_config.json").read_text())["base_model_name_or_path"]
        try:
            below = load_causal_lm(base, loading)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"the adapters in {name} belong to {base}, which is not there ({error}): correct "
                "base_model_name_or_path in their adapter_config.json"
            ) from error
        adapted: nn.Module = PeftModel.from_pretrained(
            below, name, is_trainable=True, use_safetensors=True
        )
        return adapted
    with no_progress_bar(), _one_sentence(f"language model {name}"):
        model: nn.Module = _model_class(path).from_pretrained(
            name, use_safetensors=True, trust_remote_code=False, **loading.arguments()
        )
    return loading.checkpoint_(model.train())


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a local directory or hub name.

    One that is a bare ``tokenizer.json`` is read as it stands: for some architectures, Qwen2 among
    them, ``AutoTokenizer`` would put the architecture's own class in its place, which cuts text
    differently and adds a token.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it needs code of its own.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    with _one_sentence(f"tokenizer {name}"):
        bare = get_tokenizer_config(name).get("tokenizer_class") in _BARE_TOKENIZERS
        kind = PreTrainedTokenizerFast if bare else AutoTokenizer
        tokenizer: PreTrainedTokenizerBase = kind.from_pretrained(name, trust_remote_code=False)
    return tokenizer


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


@contextmanager
def _one_sentence(what: str) -> Iterator[None]:
    """Turns transformers' pages of advice into one sentence that names what was to be read."""
    try:
        yield
    except (OSError, ValueError) as error:
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"{what} needs code that comes with it, which is never run: use a model that "
                "transformers itself knows"
            ) from None
        kind = FileNotFoundError if isinstance(error, OSError) else ValueError
        raise kind(f"{what} cannot be read: {str(error).strip().splitlines()[0]}") from error


def _model_class(path: Path) -> Any:
    """The Llama class where a local configuration says so (a fast import), else any."""
    config = path / "config.json"
    if config.is_file() and json.loads(config.read_text()).get("model_type") == "llama":
        from transformers.models.llama.modeling_llama import LlamaForCausalLM

        return LlamaForCausalLM
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM


def causal_lm(model: nn.Module) -> Any:
    """The causal LM itself, out of its adapter wrapper if there is one (adapters stay active)."""
    unwrap = getattr(model, "get_base_model", None)
    return unwrap() if unwrap is not None else model


def hidden_size(model: nn.Module) -> int:
    """Size of the hidden states."""
    return int(causal_lm(model).config.get_text_config().hidden_size)


_CONTEXT = ("max_position_embeddings", "max_seq_len", "seq_length", "context_length")
"""What configurations call the most tokens of a sequence: most, MPT, BLOOM, RWKV."""


def context_length(model: nn.Module) -> int:
    """Most tokens of a sequence: the position limit, or the attention window if that is less.

    Raises:
        ValueError: If the model states none, as recurrent ones may.
    """
    config = causal_lm(model).config.get_text_config()
    stated = [found for name in _CONTEXT if (found := getattr(config, name, None)) is not None]
    if not stated:
        raise ValueError(
            f"{type(causal_lm(model)).__name__} states no context length: write the most tokens of "
            "a sequence as max_position_embeddings into its config.json"
        )
    length = stated[0]
    layers = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    windowed = layers is None or "sliding_attention" in layers
    return min(int(length), int(window)) if window and windowed else int(length)
