"""Behaviour half: the ``play`` command: one episode in the terminal, acted by agent or person."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from retro_lightning.cli.play_text import AgentText, HumanText, Said, Writer
from retro_lightning.config import command
from retro_lightning.config.locate import nearest
from retro_lightning.environments.base import TextEnv
from retro_lightning.policy.policy import Policy
from retro_lightning.rollout.episode import EpisodeRecorder
from retro_lightning.rollout.seeds import generator
from retro_lightning.trajectory import Step, Task, Trajectory

if TYPE_CHECKING:
    from retro_lightning.config.command import Parser

Choose = Callable[[tuple[str, ...], "np.ndarray | None"], str | None]
"""From the valid actions and their probabilities to an action; None = stop playing."""

_BAR = 24


def add_arguments(parser: Parser) -> None:
    """The command's own arguments, beside the configuration of a run."""
    parser.add_argument("--family", type=str | None, default=None, help="Task family to play.")
    parser.add_argument(
        "--split",
        type=Literal["train", "val", "test"],
        default="val",
        help="Split that the task is taken from.",
    )
    parser.add_argument("--task", type=int, default=0, help="Number of the task in its split.")
    parser.add_argument("--human", action="store_true", help="Act yourself.")
    parser.add_argument("--greedy", action="store_true", help="The agent never samples.")


def play(name: str, args: Sequence[str]) -> None:
    """Play one episode.

    Raises:
        ValueError: If the family or the task does not exist, or nobody could act.
    """
    cli = command.build(name, args, add_arguments)
    config, data = cli.config_init, cli.datamodule
    family = config.family if config.family is not None else next(iter(data.environments))
    if family not in data.environments:
        hint = nearest(family, data.environments)
        raise ValueError(
            f"there is no family {family!r}; "
            + (f"did you mean {hint}?" if hint else f"choose one of {', '.join(data.environments)}")
        )
    if config.policy is None and not config.human:
        raise ValueError("who should act? give --policy DIRECTORY, or --human to act yourself")
    tasks = data.tasks(config.split)[family]
    if not 0 <= config.task < len(tasks):
        raise ValueError(f"--task is {config.task}; {family} has tasks 0 to {len(tasks) - 1}")
    task = tasks[config.task]
    policy = Policy.load(config.policy).eval() if config.policy is not None else None
    console = Console(highlight=False)
    rng = None
    if not config.greedy:
        version = policy.version if policy is not None else 0
        rng = generator(data.seed, task.task_id, 0, version, "play")
    choose: Choose = HumanChoice(console) if config.human else AgentChoice(rng)
    write: Writer = HumanText(console)
    if policy is not None and not config.human:
        write = AgentText(policy, rng)
    env = data.environments[family]()
    try:
        play_episode(task, env, policy, choose, write, console)
    finally:
        env.close()


def play_episode(
    task: Task,
    env: TextEnv,
    policy: Policy | None,
    choose: Choose,
    write: Writer,
    console: Console,
) -> Trajectory:
    """Show an episode step by step.

    Args:
        task: The task.
        env: An environment of its family.
        policy: States the probability of every valid action; None = nobody does.
        choose: Chooses among valid actions.
        write: Writes free text, and thoughts.
        console: Where it is shown.

    Returns:
        The episode.
    """
    recorder = EpisodeRecorder(task, env)
    steps: list[Step] = []
    console.print(f"[bold]{escape(task.family)}[/]: {escape(task.instruction)}\n")
    for number in itertools.count(1):
        if recorder.done:
            break
        valid = recorder.valid_actions
        seen = recorder.observation
        console.print(f"[bold]step {number}[/]  {escape(seen)}")
        if valid is None or write.thinks:
            said = write(task, steps, seen, valid)
            _show_said(said, valid, console)
        else:
            probabilities = None
            if policy is not None:
                probabilities = distribution(policy, task, steps, seen, valid)
            console.print(_actions_table(valid, probabilities))
            action = choose(valid, probabilities)
            said = None if action is None else Said(action)
        if said is None:
            recorder.stop("collector_limit")
            break
        console.print(f"  → [bold]{escape(said.action)}[/]\n")
        recorder.act(said.action, thought=said.thought)
        steps.append(
            Step(
                observation=seen,
                valid_actions=valid,
                action=said.action,
                reward=0.0,
                thought=said.thought,
            )
        )
    episode = recorder.trajectory(source="rollout", behaviour_id="play", run="play", attempt=0)
    _ending(episode, console)
    return episode


def distribution(
    policy: Policy, task: Task, steps: Sequence[Step], observation: str, valid: tuple[str, ...]
) -> np.ndarray:
    """Probability of every valid action now, [A]; NaN once the policy's context is full.

    Args:
        policy: The policy, in eval mode.
        task: The task.
        steps: What has happened.
        observation: What is seen now.
        valid: What can be done now.
    """
    now = Step(observation=observation, valid_actions=valid, action=valid[0], reward=0.0)
    so_far = Trajectory(
        task=task,
        steps=(*steps, now),
        final_observation="",
        final_valid_actions=None,
        terminated=False,
        truncated=True,
        truncation="collector_limit",
        success=False,
        source="rollout",
        behaviour_id="play",
        run="play",
        attempt=0,
    )
    log_probs = policy.action_log_probs(so_far)
    if len(log_probs) <= len(steps):
        return np.full(len(valid), np.nan)
    return np.exp(log_probs[-1])


@dataclass
class AgentChoice:
    """Samples from the policy's distribution, or takes the most probable action.

    Args:
        rng: Source of randomness; None = the most probable.
    """

    rng: np.random.Generator | None

    def __call__(self, valid: tuple[str, ...], probabilities: np.ndarray | None) -> str | None:
        """Choose; None when the policy's context is full."""
        assert probabilities is not None
        if np.isnan(probabilities).any():
            return None
        if self.rng is None:
            return valid[int(probabilities.argmax())]
        cumulative = np.cumsum(probabilities)
        drawn = self.rng.random() * cumulative[-1]
        return valid[min(int(np.searchsorted(cumulative, drawn, side="right")), len(valid) - 1)]


@dataclass
class HumanChoice:
    """Asks a person for an action, by number or by name.

    Args:
        console: Where to ask.
    """

    console: Console

    def __call__(self, valid: tuple[str, ...], probabilities: np.ndarray | None) -> str | None:
        """Ask until the answer is an action; None for q or the end of input."""
        while True:
            try:
                answer = self.console.input("your action (number or text, q to stop): ").strip()
            except EOFError:
                return None
            if answer in valid:
                return answer
            if answer.isdecimal() and 1 <= int(answer) <= len(valid):
                return valid[int(answer) - 1]
            if answer == "q":
                return None
            hint = nearest(answer, valid)
            self.console.print(f"not valid; {f'did you mean {hint}?' if hint else 'try again'}")


def _show_said(said: Said | None, valid: tuple[str, ...] | None, console: Console) -> None:
    if said is None:
        return
    if said.thought is not None:
        console.print(f"  [italic]{escape(said.thought)}[/]")
    if valid is not None:
        console.print(_actions_table(valid, said.probabilities))
    if said.log_prob is not None:
        console.print(f"  log-probability {said.log_prob:.2f}")


def _actions_table(valid: tuple[str, ...], probabilities: np.ndarray | None) -> Table:
    table = Table(box=None, padding=(0, 1), show_header=False)
    for number, action in enumerate(valid):
        cells = [f"{number + 1}", escape(action)]
        if probabilities is not None:
            share = float(probabilities[number])
            known = not np.isnan(share)
            cells += [f"{share:.3f}" if known else "?", "█" * round(_BAR * share) if known else ""]
        table.add_row(*cells)
    return table


def _ending(episode: Trajectory, console: Console) -> None:
    if episode.fault is not None:
        verdict = f"fault: {escape(episode.fault)}"
    elif episode.truncation == "collector_limit":
        verdict = "stopped"
    else:
        verdict = "solved" if episode.success else "not solved"
    console.print(
        f"[bold]{verdict}[/] after {episode.length} steps, return {episode.total_return:.2f}"
    )
    if episode.final_observation:
        console.print(escape(episode.final_observation))
