"""The server actor against a real one: ``transformers serve`` with a small model made here."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from retro_lightning.environments.base import make_tasks
from retro_lightning.retrospection.actor import Request
from retro_lightning.retrospection.server import ServerActor
from tests.support import CorridorEnv

pytestmark = pytest.mark.slow

_TEMPLATE = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}Answer:"
_ANSWER = " stop"


def _save_model(path: Path) -> None:
    """A Llama of a few thousand parameters that has learnt to answer ``stop`` to everything."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from retro_lightning.policy.tokenizer import train_tokenizer

    tokenizer = train_tokenizer([f"Answer:{_ANSWER} Observation: Task: Actions: left right"], 300)
    tokenizer.chat_template = _TEMPLATE
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=2048,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    answer = tokenizer(_ANSWER)["input_ids"] + [tokenizer.eos_token_id]
    ask = tokenizer("Answer:")["input_ids"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        noise = torch.randint(3, len(tokenizer), (16, int(torch.randint(1, 300, ()))))
        fixed = torch.tensor([ask + answer]).expand(16, -1)
        tokens = torch.cat([noise, fixed], dim=1)
        labels = tokens.clone()
        labels[:, : -len(answer)] = -100
        loss = model(input_ids=tokens, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.05
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Address of the API and name of the model."""
    path = tmp_path_factory.mktemp("served") / "model"
    _save_model(path)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    command = Path(sys.executable).with_name("transformers")
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    process = subprocess.Popen(
        [str(command), "serve", str(path), *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}/v1", str(path)
    finally:
        process.terminate()
        process.wait(timeout=20)


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert process.poll() is None, "the server has ended"
        try:
            urllib.request.urlopen(url, timeout=1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError("the server does not answer")


def test_attempts_through_a_real_server(server: tuple[str, str]) -> None:
    url, model = server
    tasks = make_tasks("corridor", CorridorEnv, "train", 4)
    actor = ServerActor(url, model, concurrency=2, temperature=0.2, prompt_price=1.0)
    made = actor.attempt([Request(CorridorEnv, task, 0, ("stop at once",)) for task in tasks])
    assert [t.fault for t in made] == [None] * 4
    assert [t.steps[0].action for t in made] == ["stop"] * 4
    # Whoever stops at once solves exactly the tasks that begin at their goal.
    for trajectory in made:
        start = trajectory.steps[0].observation.split()[4]
        assert trajectory.success == (start == trajectory.task.instruction.split()[-1])
    ledger = actor.ledger
    assert ledger.requests == 4 + ledger.failures
    assert ledger.prompt_tokens > 4 * 100
    assert 4 * 2 <= ledger.completion_tokens <= 4 * 32
    assert actor.cost == pytest.approx(ledger.prompt_tokens / 1e6)
