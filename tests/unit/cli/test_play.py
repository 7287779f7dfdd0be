"""The ``play`` command: what is shown, who acts, how it ends."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import tiny
from retro_lightning.cli.main import main
from retro_lightning.cli.play import AgentChoice, HumanChoice, distribution, play_episode
from retro_lightning.cli.play_text import AgentText, HumanText
from retro_lightning.environments.base import make_tasks
from retro_lightning.policy.text import TextSampling
from retro_lightning.rollout.collector import Job, collect
from retro_lightning.rollout.episode import EpisodeRecorder
from retro_lightning.trajectory import Step
from tests.support import CorridorEnv

CONFIG = str(Path(__file__).parents[2] / "corridor.yaml")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def console(answers: str = "") -> Console:
    """A console that records, and reads answers line by line."""
    made = Console(file=io.StringIO(), record=True, width=100, highlight=False)
    lines = iter(answers.splitlines())

    def answer(prompt: str) -> str:
        made.print(prompt)
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    made.input = answer  # type: ignore[assignment,method-assign]
    return made


def corridor_task(number: int = 0):
    return make_tasks("corridor", CorridorEnv, "val", number + 1)[number]


def test_a_person_solves_a_corridor():
    env, task = CorridorEnv(), corridor_task()
    env.reset(seed=task.seed)
    way = ["right"] * (env.goal - env.cell) + ["left"] * (env.cell - env.goal) + ["stop"]
    shown = console("\n".join(way))
    episode = play_episode(task, CorridorEnv(), None, HumanChoice(shown), HumanText(shown), shown)
    assert episode.success
    assert [step.action for step in episode.steps] == way
    text = shown.export_text()
    assert task.instruction in text
    assert f"solved after {len(way)} steps, return 1.00" in text


def test_an_action_is_chosen_by_number_or_name_until_it_is_valid():
    asked = console("jump\nstp\n9\n0\n2")
    assert HumanChoice(asked)(("left", "stop"), None) == "stop"
    text = asked.export_text()
    assert "did you mean stop?" in text
    assert text.count("not valid") == 4


@pytest.mark.parametrize("answers", ["q", ""])
def test_a_person_may_stop(answers):
    shown = console(answers)
    episode = play_episode(
        corridor_task(), CorridorEnv(), None, HumanChoice(shown), HumanText(shown), shown
    )
    assert episode.length == 0
    assert "stopped after 0 steps" in shown.export_text()


def test_the_agent_shows_the_probability_of_every_valid_action():
    policy = tiny.policy().eval()
    shown = console()
    episode = play_episode(
        corridor_task(), CorridorEnv(), policy, AgentChoice(None), AgentText(policy, None), shown
    )
    text = shown.export_text()
    for step, log_probs in zip(episode.steps, policy.action_log_probs(episode), strict=True):
        assert step.valid_actions is not None
        for action, log_prob in zip(step.valid_actions, log_probs, strict=True):
            lines = [line.split() for line in text.splitlines() if action in line.split()]
            assert any(f"{np.exp(log_prob):.3f}" in words for words in lines)


def test_the_distribution_now_is_that_of_the_finished_episode():
    policy, task = tiny.policy().eval(), corridor_task()
    recorder = EpisodeRecorder(task, CorridorEnv())
    seen: list[np.ndarray] = []
    steps: list[Step] = []
    while not recorder.done:
        observation, valid = recorder.observation, recorder.valid_actions
        assert valid is not None
        seen.append(distribution(policy, task, steps, observation, valid))
        action = valid[len(seen) % len(valid)]
        recorder.act(action)
        steps.append(Step(observation=observation, valid_actions=valid, action=action, reward=0.0))
    episode = recorder.trajectory(source="rollout", behaviour_id="x", run="x", attempt=0)
    for now, afterwards in zip(seen, policy.action_log_probs(episode), strict=True):
        np.testing.assert_allclose(now, np.exp(afterwards), rtol=1e-5)
        assert now.sum() == pytest.approx(1.0)


def test_the_agent_samples_from_the_distribution():
    choose = AgentChoice(np.random.default_rng(0))
    drawn = [choose(("a", "b", "c"), np.array([0.2, 0.0, 0.8])) for _ in range(2000)]
    assert "b" not in drawn
    # Standard error of a share of 0.2 over 2000 draws: sqrt(0.2 * 0.8 / 2000) = 0.009.
    assert drawn.count("a") / 2000 == pytest.approx(0.2, abs=0.04)


def test_the_greedy_agent_takes_the_most_probable():
    assert AgentChoice(None)(("a", "b"), np.array([0.4, 0.6])) == "b"


def test_a_full_context_ends_the_episode():
    policy = tiny.policy(context=90).eval()
    shown = console()

    def wander(valid, probabilities):
        """Walk without ever stopping, for as long as the policy can see what it does."""
        return AgentChoice(None)(valid, probabilities) and valid[0]

    task = corridor_task()
    episode = play_episode(
        task, CorridorEnv(max_steps=50), policy, wander, AgentText(policy, None), shown
    )
    assert "stopped after" in shown.export_text()
    assert 0 < episode.length < 50


def test_a_fault_is_told():
    shown = console("stop")
    env = CorridorEnv(fault_at=0)
    episode = play_episode(corridor_task(), env, None, HumanChoice(shown), HumanText(shown), shown)
    assert episode.fault is not None
    assert "fault:" in shown.export_text()


def test_the_command_plays_a_policy(capsys):
    tiny.policy().save("policy")
    args = ["--policy", "policy", "--family", "corridor/long", "--task", "2"]
    assert main(["play", "--config", CONFIG, *args]) == 0
    assert "corridor/long: stop at cell" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ([], "who should act?"),
        (["--human", "--family", "corridor/shrt"], "did you mean corridor/short?"),
        (["--human", "--family", "zzz"], "choose one of corridor/short, corridor/long"),
        (["--human", "--task", "3"], "--task is 3; corridor/short has tasks 0 to 2"),
    ],
)
def test_bad_input_is_one_sentence(args, complaint, capsys):
    assert main(["play", "--config", CONFIG, *args]) == 2
    err = capsys.readouterr().err
    assert complaint in err
    assert err.count("\n") == 1


# ---------------------------------------------------------------------- free text and thoughts
class Echo(CorridorEnv):
    """Free text at every step but each second; it ends after three."""

    def _info(self):
        info = super()._info()
        if self.steps % 2 == 0:
            del info["valid_actions"]
        return info

    def step(self, action):
        self.steps += 1
        return f"you said {action}", 0.0, self.steps == 3, False, self._info()


def echo_task():
    return make_tasks("echo", Echo, "val", 1)[0]


def test_a_person_writes_where_the_action_is_free_text():
    shown = console("hello [b]there[/b]\n1\nbye")
    episode = play_episode(echo_task(), Echo(), None, HumanChoice(shown), HumanText(shown), shown)
    assert [step.action for step in episode.steps] == ["hello [b]there[/b]", "left", "bye"]
    assert "you said hello [b]there[/b]" in shown.export_text()


def test_a_person_may_stop_at_free_text():
    for answers in ("q", ""):
        shown = console(answers)
        made = play_episode(echo_task(), Echo(), None, HumanChoice(shown), HumanText(shown), shown)
        assert (made.length, made.truncation) == (0, "collector_limit")


@pytest.mark.parametrize("thought_tokens", [0, 5])
def test_the_agent_writes_what_it_would_in_a_rollout(thought_tokens: int):
    policy = tiny.policy()
    policy.text = TextSampling(max_tokens=7, thought_tokens=thought_tokens)
    shown, task = console(), echo_task()
    episode = play_episode(task, Echo(), policy, AgentChoice(None), AgentText(policy, None), shown)
    [rolled] = collect(policy, {"echo": Echo}, [Job(task, 0)], run="r", seed=1, greedy=True)
    # A text that the token limit cut is read on with an end: later steps may differ.
    assert episode.steps[0].action == rolled.steps[0].action
    assert episode.steps[0].thought == rolled.steps[0].thought
    assert (episode.steps[0].thought is None) == (thought_tokens == 0)
    assert [step.valid_actions is None for step in episode.steps] == [True, False, True]
    assert shown.export_text().count("log-probability") == (3 if thought_tokens else 2)


def test_a_full_context_ends_the_play_of_free_text():
    policy = tiny.policy(context=60)
    policy.text = TextSampling(max_tokens=50)
    shown = console()
    made = play_episode(
        echo_task(), Echo(), policy, AgentChoice(None), AgentText(policy, None), shown
    )
    assert made.truncation == "collector_limit"
