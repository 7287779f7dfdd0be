"""Behaviour half: frozen actors: whoever attempts tasks and is told what a reflector wrote."""

from __future__ import annotations

import functools
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from retro_lightning.environments.base import EnvironmentFactory, TextEnv
from retro_lightning.policy.policy import Policy
from retro_lightning.rollout.collector import Job, collect
from retro_lightning.rollout.episode import EpisodeRecorder
from retro_lightning.trajectory import Task, Trajectory


@dataclass(frozen=True)
class Request:
    """An attempt that an actor is asked to make.

    Attributes:
        environment: Makes the environment.
        task: The task.
        number: Number of the attempt; the actor's random choices follow from it and the task alone,
            so that two attempts of one number that are told different things differ by that only.
        reflections: What the actor is told, oldest first.
    """

    environment: EnvironmentFactory
    task: Task
    number: int
    reflections: tuple[str, ...] = ()


class Actor(ABC):
    """Attempts tasks. Its weights are nobody's business here."""

    @property
    @abstractmethod
    def key(self) -> str:
        """Equal exactly where two actors would make the same attempts."""

    @abstractmethod
    def attempt(self, requests: Sequence[Request]) -> list[Trajectory]:
        """Make attempts, all at once; one that could not be made is a trajectory with a fault."""

    def prepare(self) -> None:  # noqa: B027  (most actors are there already)
        """Make what is missing of the actor; called once, by one process."""


class PolicyActor(Actor):
    """A policy directory of this project, or any local Hugging Face causal language model.

    Its actions are sampled from the model's distribution over the valid actions.

    Args:
        path: Policy directory, Hugging Face directory or hub name.
        seed: Seed of its choices.
        parallel: Attempts under way at the same time. Higher = faster, with more memory.
    """

    def __init__(self, path: str, seed: int = 1, parallel: int = 256) -> None:
        if parallel < 1:
            raise ValueError(f"{type(self).__name__}: parallel is {parallel}; give at least 1")
        self.path, self.seed, self.parallel = path, seed, parallel

    @property
    def key(self) -> str:
        """Directory, version and seed."""
        return f"{self.path}@{self._policy.version}:{self.seed}"

    @property
    def _policy(self) -> Policy:
        return load(self.path, published_version(self.path))

    def attempt(self, requests: Sequence[Request]) -> list[Trajectory]:
        """See ``Actor``: one rollout session for all requests."""
        try:
            return self._collect(requests)
        except ValueError:  # one of them does not fit into the context: find out which
            return [self._alone(request) for request in requests]

    def _collect(self, requests: Sequence[Request]) -> list[Trajectory]:
        return list(
            collect(
                self._policy,
                {request.task.family: request.environment for request in requests},
                [Job(each.task, each.number, each.reflections) for each in requests],
                run="actor",
                seed=self.seed,
                batch_size=self.parallel,
                arm="actor",
            )
        )

    def _alone(self, request: Request) -> Trajectory:
        try:
            return self._collect([request])[0]
        except ValueError as error:
            return failed(request, str(error), self.key)


class PublishedActor(Actor):
    """The latest policy that a run has published, or another actor until there is one.

    Args:
        path: Where the run publishes its policy.
        start: Acts until then.
        seed: Seed of its choices.
        parallel: Attempts under way at the same time.
    """

    def __init__(self, path: str, start: Actor, seed: int = 1, parallel: int = 256) -> None:
        self.path, self.start, self.seed, self.parallel = path, start, seed, parallel

    @property
    def key(self) -> str:
        """That of whoever acts now."""
        return self._now.key

    def prepare(self) -> None:
        """Make the actor that begins."""
        self.start.prepare()

    def attempt(self, requests: Sequence[Request]) -> list[Trajectory]:
        """See ``Actor``."""
        return self._now.attempt(requests)

    @property
    def _now(self) -> Actor:
        published = published_version(self.path) is not None
        return PolicyActor(self.path, self.seed, self.parallel) if published else self.start


def published_version(path: str) -> int | None:
    """Version of the policy in a directory; None = it is no policy directory of this project."""
    about = Path(path) / "policy.json"
    return int(json.loads(about.read_text())["version"]) if about.is_file() else None


@functools.lru_cache(maxsize=4)
def load(path: str, version: int | None) -> Policy:
    """A frozen policy, read once in a process for each version of it.

    Args:
        path: Its directory, or a plain Hugging Face directory or hub name.
        version: What ``published_version`` says; tells apart what was published under one path.
    """
    return Policy.load(path).eval().requires_grad_(False)


class ScriptedActor(Actor):
    """Does what a function says; for tests and for trying out environments.

    Args:
        choose: From (observation, valid actions, task, reflections, number of the attempt) to the
            action.
        name: Tells scripted actors apart.
    """

    def __init__(
        self,
        choose: Callable[[str, tuple[str, ...], Task, tuple[str, ...], int], str],
        name: str = "scripted",
    ) -> None:
        self._choose, self._name = choose, name

    @property
    def key(self) -> str:
        """The name."""
        return self._name

    def attempt(self, requests: Sequence[Request]) -> list[Trajectory]:
        """See ``Actor``."""
        return [
            play(
                request,
                self._name,
                lambda seen, valid, r=request: self._choose(  # type: ignore[misc]
                    seen, valid, r.task, r.reflections, r.number
                ),
            )
            for request in requests
        ]


def play(request: Request, name: str, choose: Callable[[str, tuple[str, ...]], str]) -> Trajectory:
    """One attempt, turn by turn; what the chooser or the environment raises is a fault.

    Args:
        request: What is asked for.
        name: Recorded as the behaviour.
        choose: From (observation, valid actions) to one of the valid actions.
    """
    env: TextEnv = request.environment()
    try:
        recorder = EpisodeRecorder(request.task, env)
        while not recorder.done:
            try:
                action = choose(recorder.observation, recorder.valid_actions or ())
            except Exception as error:  # whatever an actor out of our hands does
                recorder.fail(f"{name}: {error}")
                break
            recorder.act(action)
        return _record(recorder, request, name)
    finally:
        env.close()


def failed(request: Request, reason: str, name: str) -> Trajectory:
    """The record of an attempt that could not be made."""
    return Trajectory(
        task=request.task,
        steps=(),
        final_observation="",
        final_valid_actions=None,
        terminated=False,
        truncated=True,
        truncation="fault",
        success=False,
        source="actor",
        behaviour_id=name,
        run="actor",
        attempt=request.number,
        fault=reason,
        reflections=request.reflections,
    )


def _record(recorder: EpisodeRecorder, request: Request, name: str) -> Trajectory:
    return recorder.trajectory(
        source="actor",
        behaviour_id=name,
        run="actor",
        attempt=request.number,
        reflections=request.reflections,
    )
