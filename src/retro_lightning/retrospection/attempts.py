"""Behaviour half: attempts of frozen actors, made together, remembered where that is asked for."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from retro_lightning.environments.base import EnvironmentFactory, describe
from retro_lightning.retrospection.actor import Actor, Request
from retro_lightning.trajectory import Trajectory

_REMEMBERED = 50_000


class ActorFault(RuntimeError):
    """The actor, or its environment, could not make an attempt."""


def make_attempts(asked: Sequence[tuple[Actor, Request]], *, keep: bool) -> list[Trajectory]:
    """Let actors make attempts, all of one actor's together.

    Args:
        asked: Whom, and for which attempts.
        keep: Remember them; one that is remembered is not made again.
    """
    made: dict[int, Trajectory] = {}
    actors: dict[str, Actor] = {}
    open_: dict[str, list[int]] = {}
    keys: dict[int, str] = {}
    for place, (actor, request) in enumerate(asked):
        if id(actor) not in keys:
            keys[id(actor)] = actor.key
        key = keys[id(actor)]
        known = _remembered(key).get(_name(request)) if keep else None
        if known is not None:
            made[place] = known
        else:
            actors[key] = actor
            open_.setdefault(key, []).append(place)
    for key, places in open_.items():
        attempts = actors[key].attempt([asked[place][1] for place in places])
        for place, attempt in zip(places, attempts, strict=True):
            made[place] = attempt
            if keep and attempt.truncation != "fault":
                _remember(key, asked[place][1], attempt)
    return [made[place] for place in range(len(asked))]


def make_several(
    asked: Sequence[tuple[Actor, Sequence[Request]]], *, keep: bool
) -> list[list[Trajectory]]:
    """``make_attempts`` for several requests of each of several askers."""
    flat = [(actor, request) for actor, requests in asked for request in requests]
    attempts = iter(make_attempts(flat, keep=keep))
    return [[next(attempts) for _ in requests] for _, requests in asked]


def require_sound(attempt: Trajectory) -> None:
    """Refuse an attempt that could not be made.

    Raises:
        ActorFault: If it is a fault, or the actor took no step.
    """
    if attempt.truncation == "fault" or not attempt.steps:
        raise ActorFault(f"the actor's attempt failed: {attempt.fault or 'it took no step'}")


def require_same_start(before: Trajectory, after: Trajectory) -> None:
    """Refuse a retry that did not begin where the attempt before it began.

    Raises:
        ActorFault: If the first observation or the first valid actions differ.
    """
    one, other = before.steps[0], after.steps[0]
    if (one.observation, one.valid_actions) != (other.observation, other.valid_actions):
        raise ActorFault(
            f"task {before.task.task_id} began otherwise in the retry than in the attempt before: "
            "reset(seed) of the actor's environment must always lead to the same state"
        )


def mean_return(attempts: Sequence[Trajectory]) -> float:
    """Mean undiscounted return."""
    return math.fsum(attempt.total_return for attempt in attempts) / len(attempts)


def guarded(function: Callable[[], Any]) -> Any:
    """What the function returns, or the exception that it raises: a fault of one episode alone."""
    try:
        return function()
    except Exception as error:
        return error


def unguarded(result: Any) -> Any:
    """What ``guarded`` returned; an exception is raised again."""
    if isinstance(result, Exception):
        raise result
    return result


def family_of(environment: EnvironmentFactory) -> str:
    """A name for the tasks of an actor's environment that differs wherever the environment does."""
    text = json.dumps(describe(environment), sort_keys=True)
    return f"actor-{hashlib.blake2b(text.encode(), digest_size=6).hexdigest()}"


def _remember(actor: str, request: Request, attempt: Trajectory) -> None:
    memo = _remembered(actor)
    memo[_name(request)] = attempt
    if len(memo) > _REMEMBERED:
        memo.popitem(last=False)


@functools.cache
def _remembered(actor: str) -> OrderedDict[tuple[Any, ...], Trajectory]:
    """The attempts of one actor that are made only once in a process."""
    return OrderedDict()


def _name(request: Request) -> tuple[Any, ...]:
    return request.task.task_id, request.number, request.reflections
