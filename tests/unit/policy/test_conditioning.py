"""Soft prompts: the same in rollouts and training, for known tasks and unknown ones, saved."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from retro_lightning.policy.batch import collate
from retro_lightning.policy.conditioning import (
    DescriptionEmbedding,
    LearnedTaskEmbedding,
    SoftPrompt,
    TaskConditioning,
)
from retro_lightning.policy.evaluation import Evaluation
from retro_lightning.policy.language_model import LoraSettings, PretrainedLM
from retro_lightning.policy.policy import Policy
from retro_lightning.policy.value_head import ValueHead
from retro_lightning.trajectory import Trajectory

SETTINGS: dict[str, TaskConditioning] = {
    "family": LearnedTaskEmbedding(["tiny", "other"]),
    "task_id": LearnedTaskEmbedding(["tiny:0", "tiny:1"], by="task_id"),
    "description": DescriptionEmbedding(),
}


def conditioned(kind: str, settings: TaskConditioning, context: int = 512) -> Policy:
    """A random policy whose prompts are as large as to matter."""
    model = tiny.language_model(kind, len(tiny.tokenizer()), context)
    prompt = settings.build(model.get_input_embeddings().weight, seed=1)
    head = ValueHead(32)
    torch.nn.init.constant_(head.output.weight, 0.3)
    with torch.no_grad():
        for parameter in prompt.parameters():
            parameter.mul_(5.0)
    return Policy(model, tiny.tokenizer(), value_head=head, soft_prompt=prompt).eval()


def evaluate(policy: Policy, trajectories: list[Trajectory]) -> Evaluation:
    batch = collate(policy.transcript.encode_many(trajectories), trajectories)
    return policy.evaluate(batch)


def of_family(trajectory: Trajectory, family: str) -> Trajectory:
    return dataclasses.replace(trajectory, task=dataclasses.replace(trajectory.task, family=family))


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_rollouts_and_training_agree(kind: str, name: str) -> None:
    policy = conditioned(kind, SETTINGS[name])
    acted = [tiny.acted(policy, tiny.trajectory(seed, 2 + seed), seed) for seed in range(3)]
    batch = collate(policy.transcript.encode_many(acted), acted)
    with torch.no_grad():
        now = policy.evaluate(batch)
    mask = batch.steps_BS
    for recorded, again in (
        (batch.behaviour_logprobs_BS, now.logprobs_BS),
        (batch.recorded_values_BS, now.values_BS),
    ):
        torch.testing.assert_close(recorded[mask], again[mask], atol=1e-4, rtol=0)
    for row, trajectory in enumerate(acted):
        for number, every in enumerate(policy.action_log_probs(trajectory)):
            step = trajectory.steps[number]
            chosen = every[step.valid_actions.index(step.action)]
            assert float(now.logprobs_BS[row, number]) == pytest.approx(chosen, abs=1e-4)
    policy._prompted = False  # and the prompt is not just ignored on both sides
    with torch.no_grad():
        assert (policy.evaluate(batch).logprobs_BS - now.logprobs_BS).abs().max() > 0.1


def test_a_prompt_is_one_more_position_before_the_first_token() -> None:
    policy = conditioned("gpt2", SETTINGS["family"])
    trajectory = tiny.trajectory(0, 2)
    encoded = policy.transcript.encode(trajectory)
    tokens = torch.from_numpy(encoded.tokens).long()[None]
    embeddings = policy.lm.get_input_embeddings()(tokens)
    prompt = policy.soft_prompt.vectors[0][None, None]
    with torch.no_grad():
        logits = policy.lm(inputs_embeds=torch.cat([prompt, embeddings], 1)).logits[0, 1:]
        ours = evaluate(policy, [trajectory]).logprobs_BS[0]
    d = 0
    expected = np.zeros(2)
    for step in range(2):
        while d < len(encoded.chosen) and encoded.decision_step[d] == step:
            low, high = encoded.children_indptr[d : d + 2]
            children = torch.from_numpy(encoded.children_ids[low:high]).long()
            scores = logits[encoded.decision_position[d], children]
            expected[step] += float(torch.log_softmax(scores, 0)[encoded.chosen[d]])
            d += 1
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-5)


def test_an_unknown_task_gets_the_mean_of_the_known_ones() -> None:
    policy = conditioned("llama", SETTINGS["family"])
    tasks = [of_family(tiny.trajectory(0, 1), name).task for name in ("tiny", "other", "new")]
    prompts = policy.prompts(tasks)
    torch.testing.assert_close(prompts[2], (prompts[0] + prompts[1]) / 2)
    assert not torch.allclose(prompts[0], prompts[1])


def test_a_learnt_prompt_learns_from_its_own_tasks() -> None:
    policy = conditioned("llama", SETTINGS["family"])
    evaluate(policy, [tiny.trajectory(0, 3)]).logprobs_BS.sum().backward()
    grad_NH = policy.soft_prompt.vectors.grad
    assert grad_NH[0].abs().sum() > 0
    assert grad_NH[1].abs().sum() == 0
    policy.zero_grad()
    evaluate(policy, [of_family(tiny.trajectory(0, 3), "new")]).logprobs_BS.sum().backward()
    grad_NH = policy.soft_prompt.vectors.grad
    torch.testing.assert_close(grad_NH[0], grad_NH[1])  # the mean's gradient is shared


def test_a_description_is_read_by_the_language_model_itself() -> None:
    policy = conditioned("gpt2", SETTINGS["description"])
    texts = ["go to the red ball", "né", ""]
    described = policy.describe(texts)
    for text, vector in zip(texts, described, strict=True):  # no other text, no padding in it
        ids = policy.tokenizer(f"Task: {text}")["input_ids"]
        with torch.no_grad():
            hidden = policy.lm.transformer(input_ids=torch.tensor([ids])).last_hidden_state
        torch.testing.assert_close(vector, hidden[0, -1], atol=1e-5, rtol=0)
    one = [dataclasses.replace(tiny.trajectory(0, 1).task, instruction=text) for text in texts]
    prompts = policy.prompts([*one, one[0]])
    torch.testing.assert_close(prompts[0], prompts[3])
    assert not torch.allclose(prompts[0], prompts[1])


def test_prompts_begin_at_the_size_of_token_embeddings() -> None:
    model = tiny.language_model("llama", len(tiny.tokenizer()))
    embeddings = model.get_input_embeddings().weight
    size = embeddings.detach().pow(2).mean().sqrt()
    for settings in (LearnedTaskEmbedding([str(i) for i in range(200)]), DescriptionEmbedding()):
        prompt = settings.build(embeddings, seed=0)
        policy = Policy(model, tiny.tokenizer(), value_head=ValueHead(32), soft_prompt=prompt)
        tasks = [of_family(tiny.trajectory(i, 1), str(i)).task for i in range(200)]
        prompts = policy.eval().prompts(tasks)
        torch.testing.assert_close(prompts.pow(2).mean().sqrt(), size, rtol=0.05, atol=0)


def test_the_virtual_position_counts_against_the_context() -> None:
    plain = tiny.policy("gpt2")
    tokens = len(plain.transcript.encode(tiny.trajectory(0, 3)).tokens)
    policy = conditioned("gpt2", SETTINGS["family"], context=tokens)
    assert tiny.policy("gpt2", context=tokens).transcript.encode(tiny.trajectory(0, 3)).steps == 3
    assert policy.transcript.encode(tiny.trajectory(0, 3)).steps == 2
    exact = conditioned("gpt2", SETTINGS["family"], context=tokens + 1)
    assert evaluate(exact, [tiny.trajectory(0, 3)]).logprobs_BS.shape == (1, 3)


@pytest.mark.parametrize("name", SETTINGS)
def test_prompts_are_saved_and_restored(name: str, tmp_path: Path) -> None:
    policy = conditioned("llama", SETTINGS[name])
    policy.save(tmp_path / "policy")
    again = Policy.load(tmp_path / "policy").eval()
    trajectories = [tiny.trajectory(0, 3), of_family(tiny.trajectory(1, 2), "new")]
    with torch.no_grad():
        one, two = evaluate(policy, trajectories), evaluate(again, trajectories)
    assert torch.equal(one.logprobs_BS, two.logprobs_BS)
    assert again.soft_prompt.made_from.settings() == SETTINGS[name].settings()


def test_the_reference_has_no_prompt_either(tmp_path: Path) -> None:
    tiny.language_model("llama", 300).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    source = PretrainedLM(str(tmp_path), lora=LoraSettings(rank=2))
    policy = Policy.build(source, None, conditioning=SETTINGS["family"]).eval()
    with torch.no_grad():
        policy.soft_prompt.vectors.mul_(5.0)
        prompted = evaluate(policy, [tiny.trajectory(0, 3)]).logprobs_BS
        with policy.reference():
            reference = evaluate(policy, [tiny.trajectory(0, 3)]).logprobs_BS
        again = evaluate(policy, [tiny.trajectory(0, 3)]).logprobs_BS
        plain = evaluate(Policy.load(tmp_path).eval(), [tiny.trajectory(0, 3)]).logprobs_BS
    torch.testing.assert_close(reference, plain, atol=1e-5, rtol=0)
    assert torch.equal(prompted, again)
    assert (prompted - reference).abs().max() > 0.1


class Own(DescriptionEmbedding):
    kind = "own"


def test_a_directory_names_no_code_to_import(tmp_path: Path) -> None:
    policy = conditioned("llama", Own())
    policy.save(tmp_path / "policy")
    with pytest.raises(ValueError, match=r"names a 'own', which is not one of ours: pass yours to"):
        Policy.load(tmp_path / "policy")
    again = Policy.load(tmp_path / "policy", conditioning=Own()).eval()
    assert isinstance(again.soft_prompt, SoftPrompt)
    about = json.loads((tmp_path / "policy" / "policy.json").read_text())
    assert about["conditioning"] == {"kind": "own"}


def test_known_tasks_are_named_once() -> None:
    for tasks in ([], ["a", "a"]):
        with pytest.raises(ValueError, match=r"conditioning\.tasks has \d names"):
            LearnedTaskEmbedding(tasks)
