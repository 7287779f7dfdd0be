"""Recording an episode: what happened, how it ended, and whose fault it was."""

from __future__ import annotations

from typing import Any

import pytest

from retro_lightning.environments.base import make_tasks
from retro_lightning.rollout.episode import EpisodeRecorder
from retro_lightning.trajectory import Generation, Task, Trajectory
from tests.support import CorridorEnv


def task(distance: int = 2) -> Task:
    """A task whose goal is so many cells to the right."""
    env = CorridorEnv()
    for each in make_tasks("corridor", CorridorEnv, "train", 15):
        env.reset(seed=each.seed)
        if env.goal - env.cell == distance:
            return each
    raise AssertionError


def finish(recorder: EpisodeRecorder) -> Trajectory:
    return recorder.trajectory(source="rollout", behaviour_id="b", run="r", attempt=3)


class Bent(CorridorEnv):
    """A corridor whose answers can be bent."""

    info: dict[str, Any] = {}  # noqa: RUF012
    answer: tuple[Any, ...] = ()

    def step(self, action: str) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        info = {key: value for key, value in {**info, **self.info}.items() if value != "absent"}
        return (
            *self.answer,
            *(observation, reward, terminated, truncated, info)[len(self.answer) :],
        )


def test_a_solved_episode() -> None:
    the_task = task(distance=1)
    recorder = EpisodeRecorder(the_task, CorridorEnv())
    first, menu = recorder.observation, recorder.valid_actions
    generation = Generation(context_ids=(1, 2), action_ids=(3,))
    recorder.act("right", log_prob=-0.5, log_probs=(-1.0, -0.5, -1.0), generation=generation)
    second = recorder.observation
    assert second != first
    assert not recorder.done
    recorder.act("stop", thought="there")
    assert recorder.done
    made = recorder.trajectory(
        source="rollout", behaviour_id="b", run="r", attempt=3, policy_version=7, tokenizer="t"
    )
    assert [(s.observation, s.action, s.reward) for s in made.steps] == [
        (first, "right", 0.0),
        (second, "stop", 1.0),
    ]
    assert made.steps[0].valid_actions == menu
    assert (made.steps[0].log_prob, made.steps[0].log_probs) == (-0.5, (-1.0, -0.5, -1.0))
    assert made.steps[0].generation == generation
    assert (made.steps[1].log_prob, made.steps[1].thought) == (None, "there")
    assert (made.terminated, made.truncated, made.truncation, made.success) == (
        (True, False, None, True)
    )
    assert (made.task, made.run, made.attempt) == (the_task, "r", 3)
    assert (made.policy_version, made.tokenizer) == (7, "t")


def test_a_wrong_stop_is_a_failure() -> None:
    recorder = EpisodeRecorder(task(), CorridorEnv())
    recorder.act("stop")
    made = finish(recorder)
    assert made.terminated
    assert not made.success


@pytest.mark.parametrize(("max_steps", "reason"), [(None, "task_limit"), (4, "collector_limit")])
def test_limits(max_steps: int | None, reason: str) -> None:
    recorder = EpisodeRecorder(task(), CorridorEnv(max_steps=6), max_steps=max_steps)
    while not recorder.done:
        recorder.act("right" if "right" in (recorder.valid_actions or ()) else "left")
    made = finish(recorder)
    assert made.length == (max_steps or 6)
    assert (made.terminated, made.truncated, made.truncation) == (False, True, reason)
    assert not made.success
    assert made.final_valid_actions


def test_the_end_of_the_task_comes_before_the_collectors() -> None:
    recorder = EpisodeRecorder(task(), CorridorEnv(), max_steps=1)
    recorder.act("stop")
    assert finish(recorder).truncation is None
    recorder = EpisodeRecorder(task(), CorridorEnv(max_steps=1), max_steps=1)
    recorder.act("right")
    assert finish(recorder).truncation == "task_limit"


def test_a_full_context_keeps_what_was_done() -> None:
    recorder = EpisodeRecorder(task(), CorridorEnv())
    recorder.act("right")
    recorder.stop("context_full")
    made = finish(recorder)
    assert (made.truncation, made.length, made.terminated) == ("context_full", 1, False)


@pytest.mark.parametrize(
    ("answer", "success"), [(("x", 1.0, True), True), (("x", 0.0, True), False)]
)
def test_without_a_word_on_success_a_positive_return_at_the_end_decides(
    answer: tuple[Any, ...], success: bool
) -> None:
    env = Bent()
    env.info, env.answer = {"success": "absent"}, answer
    recorder = EpisodeRecorder(task(), env)
    recorder.act("right")
    assert finish(recorder).success is success


def test_a_cut_episode_with_a_positive_return_is_no_success() -> None:
    env = Bent()
    env.info, env.answer = {"success": "absent"}, ("x", 1.0, False, True)
    recorder = EpisodeRecorder(task(), env)
    recorder.act("right")
    assert not finish(recorder).success


def test_an_environment_that_raises_is_a_fault_that_names_task_and_step() -> None:
    the_task = task()
    recorder = EpisodeRecorder(the_task, CorridorEnv(fault_at=1))
    recorder.act("right")
    recorder.act("right")
    made = finish(recorder)
    assert recorder.done
    assert made.fault == (
        f"task {the_task.task_id}, step 1: the environment raised RuntimeError: the light went out"
    )
    assert (made.truncation, made.terminated, made.success) == ("fault", False, False)


def test_a_fault_is_no_success_whatever_was_said_before() -> None:
    env = Bent(fault_at=1)
    env.info = {"success": True}
    recorder = EpisodeRecorder(task(), env)
    recorder.act("right")
    recorder.act("right")
    assert not finish(recorder).success


def test_a_reset_that_raises_is_a_fault_without_steps() -> None:
    made = finish(EpisodeRecorder(task(), CorridorEnv(fault_in_reset=True)))
    assert "step 0: the environment raised RuntimeError: the corridor is flooded" in str(made.fault)
    assert made.steps == ()


def test_an_invalid_action_is_a_fault() -> None:
    recorder = EpisodeRecorder(task(), CorridorEnv())
    recorder.act("fly")
    assert "ValueError: 'fly' is not a valid action" in str(finish(recorder).fault)


@pytest.mark.parametrize(
    ("answer", "info", "sentence"),
    [
        ((b"bytes",), {}, "the observation is of type bytes, not a text"),
        (("x", float("nan")), {}, "the reward is nan, not a finite number"),
        ((), {"valid_actions": []}, "lists no valid action though the episode goes on"),
        ((), {"valid_actions": "left"}, "is not a list of texts"),
    ],
)
def test_a_broken_contract_is_a_fault(
    answer: tuple[Any, ...], info: dict[str, Any], sentence: str
) -> None:
    env = Bent()
    env.info, env.answer = info, answer
    recorder = EpisodeRecorder(task(), env)
    recorder.act("right")
    assert sentence in str(finish(recorder).fault)
    assert "\n" not in str(finish(recorder).fault)


def test_an_environment_that_has_changed_since_is_an_error() -> None:
    other = CorridorEnv(length=9)
    tasks = make_tasks("corridor", CorridorEnv, "train", 10)
    with pytest.raises(ValueError, match=r"instruction is 'stop at cell \d', the task's"):
        [EpisodeRecorder(each, other) for each in tasks]


def test_misuse_is_refused() -> None:
    recorder = EpisodeRecorder(task(), CorridorEnv())
    with pytest.raises(RuntimeError, match="the episode goes on"):
        finish(recorder)
    recorder.act("stop")
    with pytest.raises(RuntimeError, match="cannot act, the episode is over"):
        recorder.act("stop")
    with pytest.raises(RuntimeError, match="cannot stop, the episode is over"):
        recorder.stop("context_full")
    with pytest.raises(ValueError, match="max_steps is 0"):
        EpisodeRecorder(task(), CorridorEnv(), max_steps=0)
