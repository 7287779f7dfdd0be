"""The contract between an environment and everything else, and the tasks made from one.

An environment is a ``gymnasium.Env`` with text in and text out:

* ``reset(seed=…)`` returns ``(observation, info)``. ``info["instruction"]`` says what to do;
  ``info["valid_actions"]`` lists what can be done (absent: the action is free text);
  ``info["initial_state"]`` may name the initial state more exactly than the first observation.
  The same seed gives the same state, instruction and, for the same actions, the same episode.
* ``step(action)`` returns the 5-tuple ``(observation, reward, terminated, truncated, info)``;
  ``truncated`` means the task's own time limit. ``info["success"]`` says whether the task is
  solved (default: terminated with a positive return). An action that is not valid raises
  ``ValueError`` naming it.
* ``expert_action()``, optional, returns what a scripted expert would do now, one of the valid
  actions; it changes nothing and says the same when asked twice. Only environments with it can
  write histories with experts.
* ``reset_many`` and ``step_many``, optional static methods (``BatchedEnv``), do for a list of
  environments of the class at once what ``reset`` and ``step`` do for one: the collector then makes
  one call per turn for all of them. In the place of one environment's result may stand an
  exception, which faults that episode alone.
* ``peek(seed=…)``, optional, returns what ``reset`` would, as far as it tells instruction and
  initial state, without beginning an episode: for environments whose reset is costly.
* ``TEXT_VERSION``, optional class attribute: raise it when the words change, so that cached
  histories and task lists are made anew.

``retro_lightning.environments.check`` tests an environment against this contract.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import gymnasium

from retro_lightning.trajectory import Split, Task

TextEnv = gymnasium.Env[str, str]
EnvironmentFactory = Callable[[], TextEnv]
"""Makes a new, independent environment; in YAML a ``class_path`` with ``init_args``."""

Opening = tuple[str, dict[str, Any]]
"""What ``reset`` returns."""
Result = tuple[str, float, bool, bool, dict[str, Any]]
"""What ``step`` returns."""


@runtime_checkable
class BatchedEnv(Protocol):
    """The optional batched form of an environment; one method alone is none."""

    @staticmethod
    def reset_many(environments: Sequence[Any], seeds: Sequence[int]) -> list[Opening | Exception]:
        """Reset every environment with its seed."""

    @staticmethod
    def step_many(environments: Sequence[Any], actions: Sequence[str]) -> list[Result | Exception]:
        """Take one action in every environment."""


_SPLIT_SHARES: tuple[tuple[Split, float], ...] = (("train", 0.6), ("val", 0.2), ("test", 0.2))
_MAX_FRUITLESS_SEEDS = 3_000


def state_hash(observation: str, info: Mapping[str, Any]) -> str:
    """Hash of the initial state and instruction that ``reset`` returned (32 hex digits)."""
    state = str(info.get("initial_state", observation))
    text = f"{state}\x00{info['instruction']}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def split_of(hash_: str) -> Split:
    """The split of an initial state: 60 % train, 20 % val, 20 % test, by its hash alone."""
    position = int(hash_[:13], 16) / 16**13
    for split, share in _SPLIT_SHARES:
        if position < share:
            return split
        position -= share
    return "test"


def iterate_tasks(family: str, make: EnvironmentFactory, split: Split) -> Iterator[Task]:
    """Distinct tasks of one split, in the order of their seeds: 0, 1, 2 and so on.

    Two seeds that lead to the same initial state and instruction give one task, so that the splits
    are disjoint and no task of a fixed evaluation set is counted twice.

    Args:
        family: Name of the family, the first part of every ``task_id``.
        make: Makes the environment.
        split: Which tasks to yield.

    Yields:
        Tasks, until 3,000 seeds in a row have brought none that is new.
    """
    env = make()
    look: Callable[..., Any] = getattr(env, "peek", env.reset)
    seen: set[str] = set()
    seed, last_new = 0, 0
    try:
        while seed - last_new <= _MAX_FRUITLESS_SEEDS:
            observation, info = look(seed=seed)
            hash_ = state_hash(observation, info)
            if split_of(hash_) == split and hash_ not in seen:
                seen.add(hash_)
                last_new = seed
                yield Task(
                    task_id=f"{family}:{hash_}",
                    family=family,
                    instruction=str(info["instruction"]),
                    seed=seed,
                    split=split,
                )
            seed += 1
    finally:
        env.close()


def make_tasks(family: str, make: EnvironmentFactory, split: Split, count: int) -> list[Task]:
    """The first ``count`` tasks of a split.

    Raises:
        ValueError: If the family has fewer distinct tasks.
    """
    tasks = list(itertools.islice(iterate_tasks(family, make, split), count))
    if len(tasks) < count:
        raise ValueError(
            f"family {family!r} has only {len(tasks)} distinct {split} tasks, {count} were asked "
            "for: ask for fewer or give the environment more initial states"
        )
    return tasks


def describe(part: Any) -> Any:
    """A configured part as plain data that names its class and arguments, for hashing.

    Two parts with equal descriptions behave alike; the description of a history's environments and
    behaviours is what the history is named by.
    """
    if isinstance(part, functools.partial):
        classes = [value for value in part.args if isinstance(value, type)]
        made = classes[0] if classes else part.func
        return {**_named(made), **_described(part.keywords)}
    if isinstance(part, type):
        return _named(part)
    if isinstance(part, Mapping):
        return _described(part)
    if isinstance(part, list | tuple):
        return [describe(value) for value in part]
    if part is None or isinstance(part, str | int | float | bool):
        return part
    return {**_named(type(part)), **_described(vars(part))}


def _described(values: Mapping[str, Any]) -> dict[str, Any]:
    return {str(key): describe(values[key]) for key in sorted(values)}


def _named(part: Any) -> dict[str, Any]:
    name = f"{part.__module__}.{getattr(part, '__qualname__', type(part).__qualname__)}"
    return {"class": name, "text_version": getattr(part, "TEXT_VERSION", 1)}
