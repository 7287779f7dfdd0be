"""Exported directories load with plain transformers and peft, and give the same logits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from retro_lightning.cli.main import main
from retro_lightning.policy.language_model import LoraSettings, PretrainedLM
from retro_lightning.policy.policy import Policy
from tests import tiny

RESULTS = {
    "format": 1,
    "store": {"name": "history-1", "digest": "abc", "trajectories": 1200, "steps": 9000},
    "curve": [],
    "test": {"maze": {f"t{i}": [float(i < 8), 0.0, 1.0] for i in range(10)} | {"t10": None}},
}


def a_run(policy: Policy) -> Path:
    run = Path("runs/one")
    policy.version = 42
    policy.save(run / "checkpoints" / "best-policy")
    (run / "results.json").write_text(json.dumps(RESULTS))
    (run / "config.yaml").write_text("seed_everything: 3\nmodel: {gamma: 0.9}\ntrainer: {x: 1}\n")
    return run


def adapted() -> Policy:
    """A base model on disk with LoRA over it, whose adapters are not zero."""
    tiny.policy().save("base")
    source = PretrainedLM("base", lora=LoraSettings(rank=2))
    policy = Policy.build(source, None, seed=0).eval()
    with torch.no_grad():
        for name, parameter in policy.lm.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.full_like(parameter, 0.05))
    return policy


def same_logits(one: torch.nn.Module, other: torch.nn.Module) -> None:
    ids = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(one.eval()(ids).logits, other.eval()(ids).logits)


@pytest.fixture(autouse=True)
def _there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_whole_model_with_its_card(capsys):
    policy = tiny.policy()
    run = a_run(policy)
    assert main(["export", "--run", str(run), "--output", "out/agent"]) == 0
    same_logits(AutoModelForCausalLM.from_pretrained("out/agent"), policy.lm)
    assert len(AutoTokenizer.from_pretrained("out/agent")) == len(policy.tokenizer)
    assert Path("out/agent/value_head.safetensors").is_file()
    card = Path("out/agent/README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "transformers"
    # 8 of 10 sound tasks, one fault; Wilson 0.490 to 0.943 (test_evaluation.py)
    assert "| maze | 10 | 0.800 | 0.490 to 0.943 | 1 |" in card
    assert "hash `abc`" in card
    assert "gamma: 0.9" in card
    assert "vllm serve agent" in card
    assert "42 optimiser steps" in card


def test_adapters_and_the_merged_model_are_the_same_policy():
    policy = adapted()
    run = a_run(policy)
    assert main(["export", "--run", str(run), "--output", "adapter"]) == 0
    assert main(["export", "--run", str(run), "--output", "merged", "--merge"]) == 0
    same_logits(AutoPeftModelForCausalLM.from_pretrained("adapter"), policy.lm)
    same_logits(AutoModelForCausalLM.from_pretrained("merged"), policy.lm)
    assert not Path("merged/adapter_config.json").exists()
    front = yaml.safe_load(Path("adapter/README.md").read_text().split("---")[1])
    assert (front["library_name"], front["base_model"]) == ("peft", str(Path("base").absolute()))
    assert "--enable-lora" in Path("adapter/README.md").read_text()
    same_logits(Policy.load("merged").lm, policy.lm)


def test_adapters_of_an_older_run_are_exported_with_an_absolute_base(monkeypatch):
    policy = adapted()
    run = a_run(policy)
    config = run / "checkpoints/best-policy/adapter_config.json"
    said = json.loads(config.read_text())
    config.write_text(json.dumps(said | {"base_model_name_or_path": "base"}))
    assert main(["export", "--run", str(run), "--output", "adapter"]) == 0
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    same_logits(Policy.load("../adapter").lm, policy.lm)


def test_what_cannot_be_exported_is_said(capsys):
    assert main(["export", "--run", "runs/none", "--output", "out"]) == 2
    assert "there is no policy runs/none/checkpoints/best-policy" in capsys.readouterr().err
    run = a_run(tiny.policy())
    Path("out").mkdir()
    assert main(["export", "--run", str(run), "--output", "out"]) == 2
    assert "out exists already" in capsys.readouterr().err
    assert main(["export", "--run", str(run)]) == 2
    assert "required: output" in capsys.readouterr().err
