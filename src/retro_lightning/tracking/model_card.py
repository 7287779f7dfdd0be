"""Data half: the model card of a trained policy, from what its run has kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import yaml

from retro_lightning.evaluation import Outcomes, wilson
from retro_lightning.tracking.provenance import code_version
from retro_lightning.tracking.reading import RunRecord


@dataclass(frozen=True)
class Weights:
    """What a directory holds.

    Attributes:
        adapter: Adapters alone, to be laid over the base model; else a whole model.
        base_model: Name of the model that adapters belong to; None = weights of our own.
        parameters: Number of parameters, adapters included.
        version: Optimiser steps taken.
    """

    adapter: bool
    base_model: str | None
    parameters: int
    version: int


def model_card(name: str, weights: Weights, record: RunRecord | None) -> str:
    """The card, in Markdown.

    Args:
        name: Name of the model.
        weights: What the directory holds.
        record: The run that it came from, if that is known.
    """
    parts = [_front_matter(weights), f"# {name}\n", _what(weights)]
    if record is not None:
        parts += [_results(record.results), _data(record.results), _configuration(record)]
    return "\n".join([*parts, _loading(name, weights), _serving(name, weights)])


def _front_matter(weights: Weights) -> str:
    front: dict[str, object] = {
        "library_name": "peft" if weights.adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["retro_lightning", "language-agent", "reinforcement-learning"],
    }
    if weights.base_model is not None:
        front["base_model"] = weights.base_model
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n"


def _what(weights: Weights) -> str:
    kind = f"Adapters (LoRA) for {weights.base_model}" if weights.adapter else "A causal LM"
    version, commit = code_version()
    made = f"retro_lightning {version}" + (f", commit {commit[:12]}" if commit else "")
    return (
        f"{kind} with {weights.parameters:,} parameters that acts as a language agent: its logits "
        "over the valid actions of a text environment, normalised over their token trie, are the "
        f"policy. Trained for {weights.version:,} optimiser steps by policy gradient on past and "
        f"fresh trajectories with {made}. `value_head.safetensors` holds the value head.\n"
    )


def _results(results: Mapping[str, object]) -> str:
    for split in ("test", "val"):
        outcomes = results.get(split)
        if isinstance(outcomes, dict):
            return _table(split, outcomes)
    return ""


def _table(split: str, outcomes: Outcomes) -> str:
    lines = [
        "## Results\n",
        f"Share of {split} tasks solved, with 95 % Wilson intervals: they speak of this one "
        "checkpoint, not of the method.\n",
        "| family | tasks | solved | interval | faults |",
        "|---|---|---|---|---|",
    ]
    rates = []
    for family, tasks in sorted(outcomes.items()):
        sound = [o for o in tasks.values() if o is not None]
        solved = sum(int(o[0]) for o in sound)
        low, high = wilson(solved, len(sound))
        rates.append(solved / len(sound) if sound else 0.0)
        faults = len(tasks) - len(sound)
        lines.append(
            f"| {family} | {len(sound)} | {rates[-1]:.3f} | {low:.3f} to {high:.3f} | {faults} |"
        )
    mean = sum(rates) / len(rates) if rates else 0.0
    return "\n".join([*lines, f"| mean over families | | {mean:.3f} | | |", ""])


def _data(results: Mapping[str, object]) -> str:
    store = results.get("store")
    if not isinstance(store, dict):
        return ""
    return (
        f"## Data\n\nHistory `{store['name']}` (hash `{store['digest']}`): "
        f"{store['trajectories']:,} trajectories of {store['steps']:,} steps, and the rollouts of "
        "the run itself.\n"
    )


def _configuration(record: RunRecord) -> str:
    kept = {k: v for k, v in record.config.items() if k in ("seed_everything", "model", "data")}
    text = yaml.safe_dump(kept, sort_keys=False)
    return (
        f"## Configuration\n\n<details><summary>model and data</summary>\n\n"
        f"```yaml\n{text}```\n\n</details>\n"
    )


def _loading(name: str, weights: Weights) -> str:
    if weights.adapter:
        code = (
            "from peft import AutoPeftModelForCausalLM\n"
            "from transformers import AutoTokenizer\n\n"
            f'model = AutoPeftModelForCausalLM.from_pretrained("{name}")\n'
        )
    else:
        code = (
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f'model = AutoModelForCausalLM.from_pretrained("{name}")\n'
        )
    code += f'tokenizer = AutoTokenizer.from_pretrained("{name}")\n'
    ours = (
        "from retro_lightning.policy.policy import Policy\n\n"
        f'policy = Policy.load("{name}")  # with value head and distribution over actions\n'
    )
    return f"## Load\n\n```python\n{code}```\n\nAs an agent:\n\n```python\n{ours}```\n"


def _serving(name: str, weights: Weights) -> str:
    command = f"vllm serve {name}"
    if weights.adapter:
        command = f"vllm serve {weights.base_model} --enable-lora --lora-modules agent={name}"
    return f"## Serve\n\n```\n{command}\n```\n"
