"""Free text: layout in tokens, log-probabilities against a naive scorer, what of it is learnt."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tiny
from retro_lightning.policy import text as room
from retro_lightning.policy.batch import Batch, collate
from retro_lightning.policy.head import OutputHead
from retro_lightning.policy.policy import Policy
from retro_lightning.policy.text import TextSampling
from retro_lightning.policy.transcript import Transcript
from retro_lightning.trajectory import Generation, Step, Trajectory

POLICIES = {kind: tiny.policy(kind) for kind in tiny.KINDS}


def mixed(seed: int = 0, **kwargs: Any) -> Trajectory:
    """Steps with every combination of thought and kind of action."""
    whole = tiny.trajectory(seed, 4, **kwargs)
    changes: list[dict[str, Any]] = [
        {"valid_actions": None, "action": "the red key\nis near né"},
        {"thought": "left, I think"},
        {"valid_actions": None, "action": "go", "thought": "two\nlines"},
        {},
    ]
    steps = [dataclasses.replace(s, **c) for s, c in zip(whole.steps, changes, strict=True)]
    return dataclasses.replace(whole, steps=tuple(steps))


def batch_of(coder: Transcript, trajectories: list[Trajectory]) -> Batch:
    return collate(coder.encode_many(trajectories), trajectories)


def ids_of(text: str) -> list[int]:
    return tiny.tokenizer().encode(text, add_special_tokens=False)


def pieces(trajectory: Trajectory) -> list[tuple[list[int], list[int], list[int]]]:
    """Of each step: context, thought with its end (or nothing), action with its end."""
    eos, newline = tiny.tokenizer().eos_token_id, ids_of("\n")[0]
    result = []
    for step in trajectory.steps:
        context = ids_of(f"Observation: {step.observation}")
        task, thought = f"\nTask: {trajectory.task.instruction}", []
        if step.thought is None:
            context += ids_of(f"{task}\nAction:")
        else:
            context += ids_of(f"{task}\nThought:")
            thought = [*ids_of(f" {step.thought}"), eos]
        end = eos if step.valid_actions is None else newline
        result.append((context, thought, [*ids_of(f" {step.action}"), end]))
    return result


def test_the_layout_is_the_documented_one() -> None:
    trajectory = mixed()
    expected: list[int] = []
    for context, thought, action in pieces(trajectory):
        expected += context + thought + (ids_of("\nAction:") if thought else []) + action
    encoded = Transcript(tiny.tokenizer(), max_length=512).encode(trajectory)
    assert encoded.tokens.tolist() == expected
    for position, token in zip(encoded.text_position, encoded.text_token, strict=True):
        assert encoded.tokens[position + 1] == token


def test_a_bootstrapped_state_is_that_before_a_thought_where_thoughts_are_written() -> None:
    coder = Transcript(tiny.tokenizer(), max_length=512)
    cut = mixed(truncation="collector_limit")
    for kept, marker in ((3, "\nThought:"), (4, "\nAction:")):
        tokens = coder.encode(dataclasses.replace(cut, steps=cut.steps[:kept])).tokens
        assert tiny.tokenizer().decode(tokens).endswith(marker)


def naive(
    policy: Policy,
    trajectory: Trajectory,
    temperature: float = 1.0,
    kept: list[list[tuple[int, ...]]] | None = None,
) -> list[dict[str, float]]:
    """Log-probability of thought and action and their entropy, token by token in float64.

    Every token is scored in a forward pass of its own over all that stands before it.
    """
    prefix: list[int] = []
    result = []
    for number, (context, thought, action) in enumerate(pieces(trajectory)):
        prefix += context
        step = trajectory.steps[number]
        sums = {"thought": 0.0, "action": 0.0, "entropy": 0.0}
        sets = iter(kept[number] if kept is not None else [()] * 99)
        menu = None
        if step.valid_actions is not None:
            menu = [[*ids_of(f" {a}"), ids_of("\n")[0]] for a in step.valid_actions]
        for part, tokens in (("thought", thought), ("action", action)):
            for place, token in enumerate(tokens):
                with torch.no_grad():
                    logits = policy.lm(input_ids=torch.tensor([prefix])).logits[0, -1].double()
                if part == "action" and menu is not None:
                    heads = {ids[place] for ids in menu if ids[:place] == tokens[:place]}
                    allowed = sorted(heads)
                else:
                    logits = logits / temperature
                    allowed = list(next(sets)) or list(range(len(logits)))
                logs = logits[allowed] - torch.logsumexp(logits[allowed], 0)
                sums[part] += float(logs[allowed.index(token)])
                sums["entropy"] -= float((logs.exp() * logs).sum())
                prefix.append(token)
            if part == "thought" and thought:
                prefix += ids_of("\nAction:")
        result.append(sums)
    return result


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_equals_the_naive_scorer(kind: str) -> None:
    policy = POLICIES[kind]
    trajectories = [mixed(0), tiny.trajectory(5, 2), mixed(1)]
    with torch.no_grad():
        evaluation = policy.evaluate(batch_of(policy.transcript, trajectories))
    for row in (0, 2):
        for number, sums in enumerate(naive(policy, trajectories[row])):
            assert float(evaluation.logprobs_BS[row, number]) == pytest.approx(
                sums["thought"] + sums["action"], abs=1e-4
            )
            assert float(evaluation.entropies_BS[row, number]) == pytest.approx(
                sums["entropy"], abs=1e-4
            )
    with torch.no_grad():
        alone = policy.evaluate(batch_of(policy.transcript, [trajectories[1]]))
    torch.testing.assert_close(
        evaluation.logprobs_BS[1, :2], alone.logprobs_BS[0], atol=1e-5, rtol=0
    )


def recorded(
    policy: Policy, temperature: float, rng: np.random.Generator
) -> tuple[Trajectory, Any]:
    """``mixed`` with generation records: random kept sets that hold the token written."""
    trajectory = mixed()
    steps, every = [], []
    for step, (context, thought, action) in zip(trajectory.steps, pieces(trajectory), strict=True):
        free = thought + (action if step.valid_actions is None else [])
        kept = [
            tuple(sorted({token, *rng.integers(0, 300, int(rng.integers(0, 9))).tolist()}))
            if rng.random() < 0.8
            else ()
            for token in free
        ]
        marker = ids_of("\nAction:") if thought else []
        made = Generation(
            context_ids=tuple(context),
            action_ids=(*thought, *marker, *action),
            thought_length=len(thought) + len(marker),
            temperature=temperature,
            kept_ids=tuple(kept) if free else None,
        )
        steps.append(dataclasses.replace(step, generation=made))
        every.append(kept)
    fingerprint = policy.transcript.fingerprint
    return dataclasses.replace(trajectory, steps=tuple(steps), tokenizer=fingerprint), every


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_the_recorded_sampling_transform_is_used(kind: str) -> None:
    policy = POLICIES[kind]
    trajectory, kept = recorded(policy, 0.7, np.random.default_rng(3))
    with torch.no_grad():
        evaluation = policy.evaluate(
            batch_of(policy.transcript, [trajectory, tiny.trajectory(5, 2)])
        )
    for number, sums in enumerate(naive(policy, trajectory, 0.7, kept)):
        total = sums["thought"] + sums["action"]
        assert float(evaluation.logprobs_BS[0, number]) == pytest.approx(total, abs=1e-4)
        assert float(evaluation.entropies_BS[0, number]) == pytest.approx(sums["entropy"], abs=1e-4)


def test_what_is_learnt_is_a_choice_and_the_parts_add_up() -> None:
    policy = POLICIES["llama"]
    trajectory = mixed()
    every, sums = {}, naive(policy, trajectory)
    for trained in ("all", "action", "thought"):
        coder = Transcript(policy.tokenizer, max_length=512, trained=trained)
        with torch.no_grad():
            every[trained] = policy.evaluate(batch_of(coder, [trajectory])).logprobs_BS[0]
        tokens = coder.encode(trajectory).tokens
        np.testing.assert_array_equal(tokens, policy.transcript.encode(trajectory).tokens)
    torch.testing.assert_close(every["all"], every["action"] + every["thought"], atol=1e-5, rtol=0)
    for part in ("action", "thought"):
        expected = [step[part] for step in sums]
        np.testing.assert_allclose(every[part].tolist(), expected, atol=1e-4)
    assert every["thought"][[0, 3]].tolist() == [0.0, 0.0]  # no thought was written there


def test_behaviour_log_probs_are_those_of_the_parts_learnt() -> None:
    made = Generation(
        context_ids=(1,), action_ids=(2,), thought_length=1, thought_log_prob=-2.0, temperature=1.0
    )

    def behaviour(trained: Any, **changes: Any) -> float:
        step = Step(observation="", valid_actions=("go",), action="go", reward=0.0, log_prob=-5.0)
        step = dataclasses.replace(step, **changes)
        trajectory = dataclasses.replace(mixed(), steps=(step,))
        coder = Transcript(tiny.tokenizer(), max_length=512, trained=trained)
        return float(coder.encode(trajectory).behaviour_logprobs[0])

    thoughtful = {"thought": "hm", "generation": made}
    assert [behaviour(t, **thoughtful) for t in ("all", "action", "thought")] == [-5, -3, -2]
    assert [behaviour(t) for t in ("all", "action", "thought")] == [-5, -5, 0]
    # Of a foreign record the sum alone is known, not its parts.
    apart = [behaviour(t, thought="hm") for t in ("action", "thought")]
    assert np.isnan(apart).all()
    assert behaviour("all", thought="hm") == -5


def test_much_text_is_computed_in_parts_with_the_same_gradient(monkeypatch) -> None:
    policy = tiny.policy("gpt2")
    batch = batch_of(policy.transcript, [mixed(0), mixed(1)])
    results = []
    for most in (2**25, 7 * len(policy.tokenizer)):  # all at once; seven tokens at a time
        monkeypatch.setattr(room, "_LOGITS_AT_ONCE", most)
        policy.zero_grad()
        evaluation = policy.evaluate(batch)
        (evaluation.logprobs_BS.sum() + 0.1 * evaluation.entropies_BS.sum()).backward()
        grads = torch.cat([p.grad.flatten() for p in policy.lm.parameters()])
        results.append((evaluation.logprobs_BS.detach(), grads))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-5, rtol=0)
    torch.testing.assert_close(results[0][1], results[1][1], atol=1e-4, rtol=1e-4)
    assert results[0][1].abs().sum() > 0


def test_gradients_of_the_token_log_probs() -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(3, 6, bias=False)
    hidden_FH = torch.randn(4, 3, requires_grad=True)
    kept_FK = torch.tensor([[-1, -1, -1], [0, 2, 5], [2, -1, -1], [1, 2, -1]])
    token_F = torch.tensor([4, 5, 2, 1])
    temperature_F = torch.tensor([1.0, 0.5, 2.0, 1.5])
    logprobs_F, entropy_F = room.token_log_probs(
        hidden_FH, OutputHead(head), token_F, temperature_F, kept_FK
    )
    said = logprobs_F.sum() + entropy_F.sum()
    said.backward()
    # By finite differences in float64.
    weight = head.weight.detach().double().numpy()

    def total(hidden: np.ndarray) -> float:
        result = 0.0
        for f, sets in enumerate(([*range(6)], [0, 2, 5], [2], [1, 2])):
            scores = (weight @ hidden[f])[sets] / float(temperature_F[f])
            logs = scores - np.log(np.exp(scores).sum())
            result += logs[sets.index(int(token_F[f]))] - (np.exp(logs) * logs).sum()
        return result

    at = hidden_FH.detach().double().numpy()
    assert said.item() == pytest.approx(total(at), abs=1e-5)
    for index in np.ndindex(4, 3):
        step = np.zeros((4, 3))
        step[index] = 1e-5
        slope = (total(at + step) - total(at - step)) / 2e-5
        assert float(hidden_FH.grad[index]) == pytest.approx(slope, abs=1e-4)
    assert logprobs_F[2].item() == 0.0  # the only token allowed


logits = st.lists(st.floats(-20, 20), min_size=1, max_size=30)


@given(logits, st.floats(0.05, 1.0), st.floats(0.3, 3.0))
def test_the_kept_set_is_the_smallest_that_holds_top_p(values, top_p: float, temperature: float):
    scaled = np.array(values) / temperature
    every = np.exp(scaled - scaled.max())
    every /= every.sum()
    sampling = TextSampling(temperature=temperature, top_p=top_p)
    kept, log_probs = sampling.choices(np.array(values))
    assert np.exp(log_probs).sum() == pytest.approx(1.0)
    if kept is None:
        assert top_p == 1.0
        np.testing.assert_allclose(np.exp(log_probs), every, atol=1e-12)
        return
    assert np.all(np.diff(kept) > 0)
    share = every[kept].sum()
    assert share >= top_p - 1e-9 or len(kept) == len(values)
    assert share - every[kept].min() < top_p + 1e-9  # one less would not do
    left_out = np.setdiff1d(np.arange(len(values)), kept)
    if len(left_out):
        assert every[left_out].max() <= every[kept].min() + 1e-12
    np.testing.assert_allclose(np.exp(log_probs), every[kept] / share, rtol=1e-9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "text.temperature is 0.0"),
        ({"top_p": 0.0}, "text.top_p is 0.0"),
        ({"max_tokens": 0}, "text.max_tokens is 0"),
        ({"thought_tokens": -1}, "text.thought_tokens is -1"),
        ({"stop": [""]}, "text.stop lists an empty text"),
    ],
)
def test_impossible_sampling_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextSampling(**settings)


def test_a_text_that_contains_the_end_of_texts_is_refused_by_task_and_step() -> None:
    trajectory = mixed(7)
    bad = dataclasses.replace(trajectory.steps[2], action="so <eos> it goes")
    steps = (*trajectory.steps[:2], bad)
    with pytest.raises(ValueError, match="task tiny:7, step 2: the text 'so <eos> it goes'"):
        POLICIES["llama"].transcript.encode(dataclasses.replace(trajectory, steps=steps))
