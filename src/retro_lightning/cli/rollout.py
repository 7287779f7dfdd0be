"""Behaviour half: the ``rollout`` command: attempts at tasks, appended to a replay store."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from retro_lightning.config import command
from retro_lightning.environments.base import EnvironmentFactory
from retro_lightning.evaluation import EvaluationCounts, wilson
from retro_lightning.policy.policy import Policy
from retro_lightning.replay.store import ReplayStore
from retro_lightning.rollout.behaviours import Behaviour, run_behaviour
from retro_lightning.rollout.collector import Job, collect
from retro_lightning.rollout.seeds import generator
from retro_lightning.trajectory import Task, Trajectory

if TYPE_CHECKING:
    from retro_lightning.config.command import Parser

_SHARD = 256


def add_arguments(parser: Parser) -> None:
    """The command's own arguments, beside the configuration of a run."""
    parser.add_argument("--store", type=str, required=True, help="Folder of the replay store.")
    parser.add_argument("--episodes", type=int, default=100, help="Episodes over all families.")
    parser.add_argument(
        "--split",
        type=Literal["train", "val", "test"],
        default="train",
        help="Tasks to attempt; only trajectories of train tasks are ever learnt from.",
    )
    parser.add_argument(
        "--greedy",
        action="store_true",
        help="Take the most probable action; such steps carry no log-probability.",
    )
    parser.add_argument(
        "--record_distribution",
        action="store_true",
        help="Record the probability of every valid action.",
    )
    parser.add_subclass_arguments(
        Behaviour, "behaviour", required=False, help="Scripted behaviour that acts, not a policy."
    )


def rollout(name: str, args: Sequence[str]) -> None:
    """Collect trajectories; what was collected before Ctrl-C is kept.

    Raises:
        ValueError: If not exactly one of policy and behaviour is given, or no episode is wanted.
    """
    cli = command.build(name, args, add_arguments)
    config, data = cli.config_init, cli.datamodule
    if (config.policy is None) == (config.get("behaviour") is None):
        raise ValueError("who should act? give either --policy DIRECTORY or --behaviour CLASS")
    if config.episodes < 1:
        raise ValueError(f"--episodes is {config.episodes}; give a whole number of at least 1")
    store = ReplayStore(config.store, create=True)
    jobs = next_jobs(data.tasks(config.split), config.episodes, store)
    if config.policy is not None:
        episodes: Iterator[Trajectory] = collect(
            Policy.load(config.policy).eval(),
            data.environments,
            jobs,
            run=cli.run_name,
            seed=data.seed,
            greedy=config.greedy,
            arm=config.split,
            record_distribution=config.record_distribution,
        )
    else:
        episodes = _scripted(config.behaviour, data.environments, jobs, cli.run_name, data.seed)
    collected = _store(episodes, store, len(jobs))
    _report(collected, f"{len(collected)} trajectories appended to {config.store}")


def next_jobs(tasks: Mapping[str, list[Task]], count: int, store: ReplayStore) -> list[Job]:
    """Tasks in turn from every family, with attempts that the store does not hold yet.

    Args:
        tasks: Tasks by family.
        count: Episodes wanted.
        store: The store they will go to.
    """
    in_turn = itertools.zip_longest(*tasks.values())
    every = [task for group in in_turn for task in group if task is not None]
    first = int(store.index.attempt.max()) + 1 if len(store) else 0
    rounds = itertools.count(first)
    endless = (Job(task, attempt) for attempt in rounds for task in every)
    return list(itertools.islice(endless, count))


def _scripted(
    behaviour: Behaviour,
    environments: Mapping[str, EnvironmentFactory],
    jobs: Sequence[Job],
    run: str,
    seed: int,
) -> Iterator[Trajectory]:
    envs = {family: make() for family, make in environments.items()}
    try:
        for job in jobs:
            rng = generator(seed, job.task.task_id, job.attempt, behaviour.behaviour_id)
            env = envs[job.task.family]
            yield run_behaviour(behaviour, job.task, env, run=run, attempt=job.attempt, rng=rng)
    finally:
        for env in envs.values():
            env.close()


def _store(episodes: Iterator[Trajectory], store: ReplayStore, total: int) -> list[Trajectory]:
    """Append episodes as they come, a shard at a time, whatever stops them."""
    collected: list[Trajectory] = []
    stored = 0
    console = Console(stderr=True)
    columns = (TextColumn("collecting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            bar = progress.add_task("", total=total)
            for episode in episodes:
                collected.append(episode)
                progress.advance(bar)
                if len(collected) - stored >= _SHARD:
                    store.append(collected[stored:])
                    stored = len(collected)
    finally:
        if len(collected) > stored:
            store.append(collected[stored:])
    return collected


def _report(trajectories: Sequence[Trajectory], caption: str) -> None:
    counts = EvaluationCounts.from_trajectories(trajectories)
    table = Table(caption=caption)
    for heading in (
        "family",
        "episodes",
        "success",
        "95 % Wilson interval",
        "mean return",
        "faults",
    ):
        table.add_column(heading, justify="left" if heading == "family" else "right")
    for family, count in sorted(counts.families.items()):
        low, high = wilson(count.successes, count.episodes)
        table.add_row(
            family,
            str(count.episodes),
            f"{count.success_rate:.2f}",
            f"{low:.2f} to {high:.2f}",
            f"{count.mean_return:.2f}",
            str(count.faults),
        )
    console = Console()
    console.print(table)
    faults = [trajectory.fault for trajectory in trajectories if trajectory.fault is not None]
    if faults:
        console.print(f"first fault: {faults[0]}", markup=False, highlight=False)
