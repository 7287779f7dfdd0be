"""Behaviour half: environments of one class reset and stepped in one call, where they offer it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from retro_lightning.environments.base import BatchedEnv, Opening, Result, TextEnv

Call = Callable[[Sequence[Any], Sequence[Any]], list[Any]]


def reset_all(envs: Sequence[TextEnv], seeds: Sequence[int]) -> list[Opening | Exception | None]:
    """Reset the environments that have a batched form, a call for each class.

    Args:
        envs: Environments, of any classes.
        seeds: Seed of each.

    Returns:
        What ``reset`` would have returned, or what was raised; None for an environment without a
        batched form, which is left alone.
    """
    return _in_batches(envs, seeds, lambda kind: kind.reset_many)


def step_all(envs: Sequence[TextEnv], actions: Sequence[str]) -> list[Result | Exception | None]:
    """Act in the environments that have a batched form, a call for each class; as ``reset_all``."""
    return _in_batches(envs, actions, lambda kind: kind.step_many)


def _in_batches(
    envs: Sequence[TextEnv], inputs: Sequence[Any], form: Callable[[Any], Call]
) -> list[Any]:
    results: list[Any] = [None] * len(envs)
    classes: dict[type, list[int]] = {}
    for place, env in enumerate(envs):
        if isinstance(env, BatchedEnv):
            classes.setdefault(type(env), []).append(place)
    for kind, places in classes.items():
        for place, result in zip(
            places,
            _called(form(kind), [envs[i] for i in places], [inputs[i] for i in places]),
            strict=True,
        ):
            results[place] = result
    return results


def _called(call: Call, envs: Sequence[TextEnv], inputs: Sequence[Any]) -> list[Any]:
    """The results; whatever goes wrong is every episode's fault."""
    try:
        results = list(call(envs, inputs))
    except Exception as error:  # a user's environment may raise anything
        return [error] * len(envs)
    if len(results) != len(envs):
        told = f"{len(results)} results for {len(envs)} environments"
        return [ValueError(f"the batched form returned {told}")] * len(envs)
    return results
