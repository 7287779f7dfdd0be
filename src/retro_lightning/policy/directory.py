"""Behaviour half: the policy directory: a Hugging Face directory with the value head beside it."""

from __future__ import annotations

import json
import shutil
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from retro_lightning.policy.loading import (
    Loading,
    causal_lm,
    hidden_size,
    load_causal_lm,
    load_tokenizer,
    loading_of,
    no_progress_bar,
)
from retro_lightning.policy.tokenizer import fingerprint
from retro_lightning.policy.value_head import ValueHead, ValueHeadSettings

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
        version: Optimiser steps taken.
    """

    lm: nn.Module
    tokenizer: PreTrainedTokenizerBase
    value_head: ValueHead
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
    with no_progress_bar():
        lm.save_pretrained(path, **adapters_only)
    parts.tokenizer.save_pretrained(path)
    head = parts.value_head
    tensors = {name: t.detach().cpu().contiguous() for name, t in head.state_dict().items()}
    save_file(tensors, path / "value_head.safetensors")
    about = {
        "format": _FORMAT,
        "version": parts.version,
        "value_head": asdict(ValueHeadSettings(head.width, head.detach)),
        "tokenizer": tokenizer_fingerprint,
        "loading": asdict(loading_of(lm)),
    }
    (path / "policy.json").write_text(json.dumps(about, indent=2) + "\n")


def read(path: Path | str) -> Parts:
    """Read a policy directory, or a plain Hugging Face directory or hub name.

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
        return Parts(lm, tokenizer, ValueHeadSettings().build(hidden_size(lm), seed=0), 0)
    if about["tokenizer"] != fingerprint(tokenizer):
        raise ValueError(f"{path}: the tokenizer is not the one the policy was saved with")
    from safetensors.torch import load_file

    head = ValueHeadSettings(**about["value_head"]).build(hidden_size(lm), seed=0)
    head.load_state_dict(load_file(Path(path) / "value_head.safetensors"))
    return Parts(lm, tokenizer, head, about["version"])
