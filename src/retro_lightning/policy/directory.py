"""Behaviour half: the policy directory: a Hugging Face directory with the value head beside it."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor, nn

from retro_lightning.policy.actions import ActionDistribution, TrieConstrained
from retro_lightning.policy.conditioning import OURS as CONDITIONING
from retro_lightning.policy.conditioning import SoftPrompt, TaskConditioning
from retro_lightning.policy.loading import (
    Loading,
    causal_lm,
    hidden_size,
    load_causal_lm,
    load_tokenizer,
    loading_of,
    no_progress_bar,
)
from retro_lightning.policy.scoring import OURS as DISTRIBUTIONS
from retro_lightning.policy.text import TextSampling
from retro_lightning.policy.tokenizer import fingerprint
from retro_lightning.policy.value_head import ValueHead, ValueHeadSettings
from retro_lightning.policy.written import Trained

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Parts:
    """What a policy is put together from.

    Attributes:
        lm: The causal LM, with adapters or without.
        tokenizer: Its tokenizer.
        value_head: Its value head.
        soft_prompt: Its soft prompt, if there is one.
        distribution: Its distribution over valid actions.
        text: How it samples free text.
        trained: Which parts of a step are learnt from.
        history_window: Turns seen at most; None = all.
        version: Optimiser steps taken.
    """

    lm: nn.Module
    tokenizer: PreTrainedTokenizerBase
    value_head: ValueHead
    soft_prompt: SoftPrompt | None
    distribution: ActionDistribution
    text: TextSampling
    trained: Trained
    history_window: int | None
    version: int


def write(path: Path, parts: Parts, tokenizer_fingerprint: str) -> None:
    """Write a policy directory, under a temporary name first; replaces an older one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}"
    old = temporary.with_name(temporary.name + ".old")
    try:
        _write(temporary, parts, tokenizer_fingerprint)
        if path.exists():
            path.rename(old)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _write(path: Path, parts: Parts, tokenizer_fingerprint: str) -> None:
    from safetensors.torch import save_file

    lm: Any = parts.lm
    adapters_only = {"save_embedding_layers": False} if causal_lm(lm) is not lm else {}
    if adapters_only:
        for config in lm.peft_config.values():
            config.base_model_name_or_path = anchored(config.base_model_name_or_path)
    with no_progress_bar():
        lm.save_pretrained(path, **adapters_only)
    parts.tokenizer.save_pretrained(path)
    head, prompt = parts.value_head, parts.soft_prompt
    save_file(_tensors(head), path / "value_head.safetensors")
    about = {
        "format": _FORMAT,
        "version": parts.version,
        "value_head": asdict(head.settings),
        "tokenizer": tokenizer_fingerprint,
        "loading": asdict(loading_of(lm)),
        "distribution": {"kind": parts.distribution.kind, **parts.distribution.settings()},
        "text": asdict(parts.text),
        "trained": parts.trained,
        "history_window": parts.history_window,
    }
    if prompt is not None:
        save_file(_tensors(prompt), path / "soft_prompt.safetensors")
        about["conditioning"] = {"kind": prompt.made_from.kind, **prompt.made_from.settings()}
    (path / "policy.json").write_text(json.dumps(about, indent=2) + "\n")


def anchored(name: str) -> str:
    """A base model's name as it is found from every working directory: absolute where it is local.

    Args:
        name: Directory, absolute or seen from here, or hub name; empty = a model never saved.
    """
    return str(Path(name).absolute()) if name and Path(name).is_dir() else name


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach().cpu().contiguous() for name, t in module.state_dict().items()}


def read(
    path: Path | str,
    conditioning: TaskConditioning | None = None,
    distribution: ActionDistribution | None = None,
) -> Parts:
    """Read a policy directory, or a plain Hugging Face directory or hub name.

    Args:
        path: The directory or name.
        conditioning: Instead of what the directory says.
        distribution: Instead of what the directory says.

    Raises:
        FileNotFoundError: If there is nothing at ``path``.
        ValueError: If it was written by a newer release, its tokenizer was changed, or its weights
            cannot be held here as they were.
    """
    about_path = Path(path) / "policy.json"
    about = json.loads(about_path.read_text()) if about_path.is_file() else None
    if about is not None and about["format"] > _FORMAT:
        raise ValueError(f"{about_path} was written by a newer release: upgrade this one")
    loading = Loading(**about["loading"]) if about is not None and "loading" in about else None
    lm, tokenizer = load_causal_lm(str(path), loading), load_tokenizer(str(path))
    if about is None:
        head = ValueHeadSettings().build(hidden_size(lm), seed=0)
        chosen = distribution or TrieConstrained()
        return Parts(lm, tokenizer, head, None, chosen, TextSampling(), "all", None, 0)
    if about["tokenizer"] != fingerprint(tokenizer):
        raise ValueError(f"{path}: the tokenizer is not the one the policy was saved with")
    from safetensors.torch import load_file

    head = ValueHeadSettings(**about["value_head"]).build(hidden_size(lm), seed=0)
    head.load_state_dict(load_file(Path(path) / "value_head.safetensors"))
    prompt = None
    if "conditioning" in about:
        settings = conditioning or _ours(about_path, CONDITIONING, about["conditioning"])
        prompt = settings.build(causal_lm(lm).get_input_embeddings().weight, seed=0)
        prompt.load_state_dict(load_file(Path(path) / "soft_prompt.safetensors"))
    if distribution is None:
        recorded = about.get("distribution", {"kind": TrieConstrained.kind})
        distribution = _ours(about_path, DISTRIBUTIONS, recorded)
    text, trained = TextSampling(**about.get("text", {})), about.get("trained", "all")
    window = about.get("history_window")
    return Parts(lm, tokenizer, head, prompt, distribution, text, trained, window, about["version"])


_Part = TypeVar("_Part")


def _ours(path: Path, known: Mapping[str, Callable[..., _Part]], saved: dict[str, Any]) -> _Part:
    """Only classes of ours: a directory is data and names no code to import."""
    settings = {name: value for name, value in saved.items() if name != "kind"}
    if saved["kind"] not in known:
        raise ValueError(
            f"{path} names a {saved['kind']!r}, which is not one of ours: pass yours to "
            "Policy.load as conditioning or distribution"
        )
    return known[saved["kind"]](**settings)
