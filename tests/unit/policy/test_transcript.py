"""Records to tokens: boundaries, decisions, limits and refusals."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import tiny
from retro_lightning.policy.segments import training_texts
from retro_lightning.policy.transcript import Transcript
from retro_lightning.trajectory import Generation


def transcript(max_length: int = 512) -> Transcript:
    return Transcript(tiny.tokenizer(), max_length=max_length)


def word_level() -> PreTrainedTokenizerFast:
    """A lossy tokenizer without a newline token."""
    words = ["<eos>", "[UNK]", "Task:", "Observation:", "Action:", "go", "left", "right"]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<eos>")


def test_the_text_is_the_documented_one() -> None:
    trajectory = tiny.trajectory(0, 2, truncation="collector_limit")
    one, two = trajectory.steps
    task = f"Task: {trajectory.task.instruction}"
    encoded = transcript().encode(trajectory)
    assert tiny.tokenizer().decode(encoded.tokens) == (
        f"Observation: {one.observation}\n{task}\nAction: {one.action}\n"
        f"Observation: {two.observation}\n{task}\nAction: {two.action}\n"
        f"Observation: {trajectory.final_observation}\n{task}\nAction:"
    )
    assert encoded.final_state_position == len(encoded.tokens) - 1


@pytest.mark.parametrize(("length", "again"), [(1_000, True), (1_001, False)])
def test_a_long_instruction_is_told_once(length: int, again: bool) -> None:
    trajectory = tiny.trajectory(0, 2, truncation="collector_limit")
    task = dataclasses.replace(trajectory.task, instruction=("go left " * 200)[:length])
    encoded = transcript(8_000).encode(dataclasses.replace(trajectory, task=task))
    text = tiny.tokenizer().decode(encoded.tokens)
    assert text.count("Task: go left") == (3 if again else 1)
    assert text.count("Task: as above\nAction:") == (0 if again else 2)


@pytest.mark.parametrize(
    "reflections", [(), ("the key is red",), ("go left", "né à l'est\nor not")]
)
def test_reflections_are_restated_with_the_task_and_without_them_nothing_changes(
    reflections: tuple[str, ...],
) -> None:
    trajectory = dataclasses.replace(
        tiny.trajectory(0, 3, truncation="collector_limit"), reflections=reflections
    )
    told = "".join(f"\nReflection: {each}" for each in reflections)
    task = f"{told}\nTask: {trajectory.task.instruction}\nAction:"
    expected: list[int] = []
    for step in trajectory.steps:  # every piece is encoded by itself, as ever
        for piece in (f"Observation: {step.observation}", task, f" {step.action}"):
            expected += tiny.tokenizer().encode(piece, add_special_tokens=False)
        expected.append(transcript().end)
    for piece in (f"Observation: {trajectory.final_observation}", task):
        expected += tiny.tokenizer().encode(piece, add_special_tokens=False)
    coder = transcript()
    assert coder.encode(trajectory).tokens.tolist() == expected
    context = coder.context("here", trajectory.task, first=True, reflections=reflections)
    assert tiny.tokenizer().decode(context) == f"Observation: here{task}"
    texts = list(training_texts([trajectory]))
    assert task in texts
    assert all(each in "".join(texts) for each in reflections)


def test_decisions_read_off_the_tokens() -> None:
    coder = transcript()
    trajectory = tiny.trajectory(3, 5)
    encoded = coder.encode(trajectory)
    for d, (position, step) in enumerate(
        zip(encoded.decision_position, encoded.decision_step, strict=True)
    ):
        children = encoded.children_ids[encoded.children_indptr[d] : encoded.children_indptr[d + 1]]
        assert len(children) > 1
        assert encoded.tokens[position + 1] == children[encoded.chosen[d]]
        prefix = encoded.tokens[encoded.state_positions[step] + 1 : position + 1].tolist()
        menu = [
            [*tiny.tokenizer().encode(f" {a}", add_special_tokens=False), coder.end]
            for a in tiny.ACTIONS
        ]
        expected = {ids[len(prefix)] for ids in menu if ids[: len(prefix)] == prefix}
        assert set(children.tolist()) == expected


def test_first_steps_that_fit_are_kept_and_no_reward_is_lost() -> None:
    trajectory = tiny.trajectory(1, 8)
    whole = transcript().encode(trajectory)
    first = int(whole.state_positions[1])  # by then the first action is over
    for limit in [*range(first, len(whole.tokens), 7), len(whole.tokens)]:
        part = transcript(limit).encode(trajectory)
        assert len(part.tokens) <= limit
        np.testing.assert_array_equal(part.tokens, whole.tokens[: len(part.tokens)])
        assert part.rewards.sum() == pytest.approx(trajectory.total_return, abs=1e-5)
    assert part.steps == 8


def test_final_state_only_where_we_cut_the_episode() -> None:
    coder = transcript()
    for truncation in (None, "task_limit", "fault"):
        assert coder.encode(tiny.trajectory(0, 2, truncation=truncation)).final_state_position == -1
    full = coder.encode(tiny.trajectory(0, 2, truncation="context_full"))
    assert full.final_state_position == len(full.tokens) - 1
    # One token less, and the final observation does not fit: the last state stands in for it.
    tight = transcript(len(full.tokens) - 1).encode(
        tiny.trajectory(0, 2, truncation="context_full")
    )
    assert tight.final_state_position == tight.state_positions[-1]
    assert tight.steps == 2


def test_recorded_ids_are_used_under_their_fingerprint_only() -> None:
    coder = transcript()
    trajectory = tiny.trajectory(0, 1)
    action = (*tiny.tokenizer().encode(" go", add_special_tokens=False), coder.end)
    step = dataclasses.replace(
        trajectory.steps[0],
        action="go",
        generation=Generation(context_ids=(5, 6), action_ids=action),
    )
    own = dataclasses.replace(trajectory, steps=(step,), tokenizer=coder.fingerprint)
    assert coder.encode(own).tokens.tolist() == [5, 6, *action]
    foreign = dataclasses.replace(own, tokenizer="another")
    assert coder.encode(foreign).tokens.tolist() != [5, 6, *action]
    damaged = dataclasses.replace(
        own,
        steps=(
            dataclasses.replace(step, generation=Generation(context_ids=(5,), action_ids=(1,))),
        ),
    )
    with pytest.raises(ValueError, match="tiny:0, step 0: the recorded tokens of action 'go'"):
        coder.encode(damaged)


def test_end_of_action_is_eos_where_newline_is_no_token() -> None:
    coder = Transcript(word_level(), max_length=64)
    assert coder.end == 0
    assert coder.trie(("left", "go left")).longest == 3


@pytest.mark.parametrize(
    ("menu", "action", "message"),
    [
        ((), "go", "step 1: the list of valid actions is empty"),
        (("go", "turn left"), "fly", "step 1: action 'fly' is not among the 2 valid actions"),
        (("go", "a\nb"), "go", r"step 1: action 'a\\nb' contains the end-of-action token '\\n'"),
    ],
)
def test_bad_steps_are_refused_by_task_and_step(menu, action: str, message: str) -> None:
    trajectory = tiny.trajectory(7, 3)
    bad = dataclasses.replace(trajectory.steps[1], valid_actions=menu, action=action)
    steps = (trajectory.steps[0], bad, trajectory.steps[2])
    with pytest.raises(ValueError, match=f"task tiny:7, {message}"):
        transcript().encode(dataclasses.replace(trajectory, steps=steps))


def test_actions_that_a_lossy_tokenizer_confuses_are_refused() -> None:
    with pytest.raises(ValueError, match="'fly' and 'run' are the same tokens"):
        Transcript(word_level(), max_length=64).trie(("fly", "run"))


def test_no_step_and_no_room_are_refused() -> None:
    with pytest.raises(ValueError, match="tiny:0: the trajectory has no step"):
        transcript().encode(tiny.trajectory(0, 0))
    with pytest.raises(ValueError, match="step 0 alone is longer than the model's context of 9"):
        transcript(9).encode(tiny.trajectory(0, 1))
