"""Behaviour half: scripted behaviours, which state the exact probability of all that they do."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np

from retro_lightning.environments.base import TextEnv
from retro_lightning.rollout.episode import EpisodeRecorder
from retro_lightning.trajectory import Task, Trajectory


class Behaviour(ABC):
    """Chooses among the valid actions with probabilities it can state."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Short name; trajectories have the source ``scripted:<name>``."""

    @property
    def behaviour_id(self) -> str:
        """Name with the parameters that matter."""
        return self.name

    @abstractmethod
    def probabilities(self, env: TextEnv, valid_actions: tuple[str, ...]) -> tuple[float, ...]:
        """Probability of every valid action, in their order; adds up to 1.

        Called once per step, before the step is taken.
        """

    def write(self, env: TextEnv) -> str:
        """What to write now, where the action is free text.

        Raises:
            NoWriter: Unless the behaviour can.
        """
        raise NoWriter


class RandomWalker(Behaviour):
    """Takes every valid action with the same probability."""

    @property
    def name(self) -> str:
        """See ``Behaviour``."""
        return "random"

    def probabilities(self, env: TextEnv, valid_actions: tuple[str, ...]) -> tuple[float, ...]:
        """1 / number of valid actions each."""
        return (1.0 / len(valid_actions),) * len(valid_actions)


class NoisyExpert(Behaviour):
    """Does what the environment's expert would, or with probability epsilon anything valid.

    Args:
        epsilon: Probability, in [0, 1], with which a step is drawn uniformly from all valid
            actions instead. Higher = fails more often and explores more.
    """

    def __init__(self, epsilon: float) -> None:
        if not 0.0 <= epsilon <= 1.0:
            raise ValueError(f"NoisyExpert: epsilon is {epsilon}; give a number between 0 and 1")
        self.epsilon = epsilon

    @property
    def name(self) -> str:
        """See ``Behaviour``."""
        return "noisy_expert"

    @property
    def behaviour_id(self) -> str:
        """The name with epsilon."""
        return f"{self.name}(epsilon={self.epsilon})"

    def probabilities(self, env: TextEnv, valid_actions: tuple[str, ...]) -> tuple[float, ...]:
        """The mixture: epsilon / number of valid actions each, the rest on the expert's action."""
        expert = _expert_action(env)
        if expert not in valid_actions:
            raise RuntimeError(
                f"the expert wants {expert!r}, which is not a valid action: correct expert_action"
            )
        floor = self.epsilon / len(valid_actions)
        return tuple(floor + (1.0 - self.epsilon) * (action == expert) for action in valid_actions)


class Expert(NoisyExpert):
    """Does what the environment's expert does, always: a point mass, to which there is no ratio."""

    def __init__(self) -> None:
        super().__init__(0.0)

    @property
    def name(self) -> str:
        """See ``Behaviour``."""
        return "expert"

    @property
    def behaviour_id(self) -> str:
        """The name: there are no parameters."""
        return self.name

    def write(self, env: TextEnv) -> str:
        """What the environment's expert writes."""
        return _expert_action(env)


def run_behaviour(
    behaviour: Behaviour,
    task: Task,
    env: TextEnv,
    *,
    run: str,
    attempt: int,
    rng: np.random.Generator,
    max_steps: int | None = None,
) -> Trajectory:
    """Let a scripted behaviour attempt a task; what it or the environment raises is a fault.

    Args:
        behaviour: Chooses the actions.
        task: The task.
        env: An environment of its family.
        run: Name of the history or run, recorded.
        attempt: Number of the attempt, recorded.
        rng: Source of randomness.
        max_steps: Steps after which the episode is cut; None = the task's own limit.

    Raises:
        ValueError: If the environment has no expert where one is needed, or takes free text that
            the behaviour cannot write.
    """
    recorder = EpisodeRecorder(task, env, max_steps=max_steps)
    while not recorder.done:
        valid = recorder.valid_actions
        try:
            if valid is None:
                recorder.act(behaviour.write(env))  # a point mass, to which there is no ratio
                continue
            probabilities = behaviour.probabilities(env, valid)
        except NoWriter:
            raise ValueError(
                f"family {task.family!r} takes free text, which {behaviour.behaviour_id} cannot "
                "write: of the scripted behaviours only Expert can"
            ) from None
        except MissingExpert as error:
            raise ValueError(f"family {task.family!r}: {error}") from None
        except Exception as error:  # a user's expert may raise anything
            recorder.fail(f"{behaviour.behaviour_id} raised {type(error).__name__}: {error}")
            break
        chosen = int(np.searchsorted(np.cumsum(probabilities), rng.random(), side="right"))
        chosen = min(chosen, len(valid) - 1)
        log_probs = tuple(math.log(p) if p > 0 else -math.inf for p in probabilities)
        recorder.act(valid[chosen], log_prob=log_probs[chosen], log_probs=log_probs)
    return recorder.trajectory(
        source=f"scripted:{behaviour.name}",
        behaviour_id=behaviour.behaviour_id,
        run=run,
        attempt=attempt,
    )


class NoWriter(Exception):
    """The behaviour chooses from lists and cannot write free text."""


class MissingExpert(Exception):
    """The environment has no scripted expert."""


def _expert_action(env: TextEnv) -> str:
    expert = getattr(env, "expert_action", None) or getattr(env.unwrapped, "expert_action", None)
    if expert is None:
        raise MissingExpert(
            f"{type(env.unwrapped).__name__} has no expert_action(); give it one, or write the "
            "history with RandomWalker alone"
        )
    return str(expert())
