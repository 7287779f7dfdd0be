"""Behaviour half: does an environment keep the contract of ``environments/base.py``?"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

import gymnasium
import numpy as np

from retro_lightning.environments.base import BatchedEnv, EnvironmentFactory, TextEnv
from retro_lightning.environments.contract import Broken, Turn, faults, kind, read_turn

_NONSENSE = "no such action, surely"


@dataclass(frozen=True)
class Report:
    """What was checked, where nothing was found.

    Attributes:
        episodes: Episodes played.
        steps: Steps taken.
        has_expert: Whether the environment offers ``expert_action``.
        skipped: Checks that could not be made, each with the reason.
    """

    episodes: int
    steps: int
    has_expert: bool
    skipped: tuple[str, ...]


class ContractError(ValueError):
    """An environment breaks its contract.

    Attributes:
        violations: One sentence per violation.
    """

    def __init__(self, violations: Iterable[str]) -> None:
        """Keep the sentences; the message is all of them, one per line."""
        self.violations = tuple(violations)
        super().__init__("\n".join(self.violations))


def check(
    environment: EnvironmentFactory | TextEnv,
    seeds: Iterable[int] = range(5),
    max_steps: int = 100,
) -> Report:
    """Play random episodes in an environment and test it against the contract.

    Args:
        environment: A callable that makes an environment (preferred), or an environment; with the
            latter the independence of instances can't be checked.
        seeds: Reset seeds to play. More = more is seen.
        max_steps: Longest episode played, in steps.

    Returns:
        What was checked.

    Raises:
        ContractError: With one sentence for every violation found.
    """
    seeds = list(seeds)
    skipped: tuple[str, ...] = ()
    if isinstance(environment, gymnasium.Env):
        checker = _Checker(environment, max_steps)
        skipped = ("independence of instances: an environment was given, not a factory",)
    else:
        env = environment()
        if not isinstance(env, gymnasium.Env):
            made = f"the factory made something {kind(env)}, it must make a gymnasium.Env"
            raise ContractError([made])
        checker = _Checker(env, max_steps)
    for seed in seeds:
        checker.check_seed(seed)
    if not checker.violations and not isinstance(environment, gymnasium.Env):
        checker.check_independence(environment(), seeds)
    if checker.violations:
        raise ContractError(checker.violations.values())
    return Report(checker.episodes, checker.steps, checker.has_expert, skipped)


class _Checker:
    """Plays one environment; every violation is noted once, where it was first seen."""

    def __init__(self, env: TextEnv, max_steps: int) -> None:
        self.env = env
        self.max_steps = max_steps
        self.episodes = self.steps = 0
        self.has_expert = callable(getattr(env, "expert_action", None))
        self.violations: dict[str, str] = {}
        self._together = False

    def check_seed(self, seed: int) -> None:
        """All checks of one seed; those that compare episodes only where the first is sound."""
        try:
            actions, first = self._play(seed)
            if self.violations:
                return
            if self._play(seed, actions)[1] != first:
                self._break(
                    f"seed {seed}",
                    "the same actions gave another episode the second time; all that is random "
                    "must follow from the reset seed",
                )
            if self.has_expert and self._play(seed, actions, self._ask_expert)[1] != first:
                self._break(
                    f"seed {seed}",
                    "asking expert_action changed the episode; it must only advise",
                )
            if isinstance(self.env, BatchedEnv) and self._play_together(seed, actions) != first:
                self._break(
                    f"seed {seed}",
                    "reset_many and step_many gave another episode than reset and step",
                )
            if first[0].valid is not None:
                self._check_nonsense(seed)
        except Broken:
            return

    def check_independence(self, other: TextEnv, seeds: list[int]) -> None:
        """Play each seed again while another instance plays the next one."""
        neighbour = _Checker(other, self.max_steps)
        for seed, other_seed in zip(seeds, [*seeds[1:], *seeds[:1]], strict=True):
            try:
                actions, alone = self._play(seed)
                moves = iter(neighbour._play(other_seed)[0])
                other.reset(seed=other_seed)

                def disturb(where: str, turn: Turn, moves: Any = moves) -> None:
                    for move in moves:
                        other.step(move)
                        break

                if self._play(seed, actions, disturb)[1] != alone:
                    self._break(
                        f"seed {seed}",
                        "a second instance changed the episode of the first; instances must not "
                        "share state",
                    )
            except Broken:
                break
        self.violations.update(neighbour.violations)

    def _play(
        self,
        seed: int,
        actions: list[str] | None = None,
        before_step: Callable[[str, Turn], None] = lambda where, turn: None,
    ) -> tuple[list[str], list[Turn]]:
        """One episode: with the given actions, or with random valid ones."""
        rng = np.random.default_rng(seed)
        self.episodes += 1
        turns = [self._reset(seed)]
        taken: list[str] = []
        limit = self.max_steps if actions is None else len(actions)
        while len(taken) < limit and not turns[-1].ended:
            before_step(f"seed {seed}, step {len(taken)}", turns[-1])
            action = self._choose(turns[-1], rng) if actions is None else actions[len(taken)]
            turns.append(self._step(f"seed {seed}, step {len(taken)}, action {action!r}", action))
            taken.append(action)
        return taken, turns

    def _play_together(self, seed: int, actions: list[str]) -> list[Turn]:
        """The same episode by the batched form, in a batch of one."""
        self._together = True
        try:
            return self._play(seed, actions)[1]
        finally:
            self._together = False

    def _alone(self, name: str, argument: Any) -> Any:
        """What the batched form returns for this environment alone."""
        results = getattr(self.env, f"{name}_many")([self.env], [argument])
        if not isinstance(results, list) or len(results) != 1:
            raise ValueError(f"{name}_many must return a list with a result per environment")
        if isinstance(results[0], Exception):
            raise results[0]
        return results[0]

    def _choose(self, turn: Turn, rng: np.random.Generator) -> str:
        if turn.valid is None:
            self.env.action_space.seed(int(rng.integers(2**31)))
            text = str(self.env.action_space.sample())
            return text if text.strip() else "nothing"  # an empty text may be a fault by design
        return turn.valid[int(rng.integers(len(turn.valid)))]

    def _reset(self, seed: int) -> Turn:
        where = f"reset(seed={seed})"
        alone, env = functools.partial(self._alone, "reset", seed), self.env
        returned = self._call(where, alone if self._together else lambda: env.reset(seed=seed))
        if not (isinstance(returned, tuple) and len(returned) == 2):
            self._break(where, f"it returned {kind(returned)}, it must return (observation, info)")
        observation, info = returned
        return self._read(where, observation, 0.0, False, False, info)

    def _step(self, where: str, action: str) -> Turn:
        self.steps += 1
        if not self.env.action_space.contains(action):
            self._note(where, "the action is not in action_space; use UnicodeText")
        alone, env = functools.partial(self._alone, "step", action), self.env
        returned = self._call(where, alone if self._together else lambda: env.step(action))
        if not (isinstance(returned, tuple) and len(returned) == 5):
            self._break(
                where,
                f"step returned {kind(returned)}, it must return (observation, reward, terminated, "
                "truncated, info)",
            )
        return self._read(where, *returned)

    def _read(self, where: str, *returned: Any) -> Turn:
        try:
            turn = read_turn(*returned)
        except Broken as error:
            self._break(where, str(error))
        if not self.env.observation_space.contains(turn.observation):
            self._note(where, "the observation is not in observation_space; use UnicodeText")
        for fault in faults(turn):
            self._note(where, fault)
        if turn.valid == () and not turn.ended:
            raise Broken  # noted above: there is nothing to be done
        return turn

    def _ask_expert(self, where: str, turn: Turn) -> None:
        ask = self.env.expert_action  # type: ignore[attr-defined]  # the caller has looked
        advice = self._call(f"{where}, expert_action()", ask)
        if not isinstance(advice, str):
            self._break(where, f"expert_action gave something {kind(advice)}, not a text")
        if turn.valid is not None and advice not in turn.valid:
            self._break(
                where,
                f"expert_action gave {advice!r}, which is not one of the valid actions: "
                f"{', '.join(turn.valid)}",
            )
        again = self._call(f"{where}, expert_action()", ask)
        if again != advice:
            self._break(where, f"expert_action gave {advice!r}, and asked again {again!r}")

    def _check_nonsense(self, seed: int) -> None:
        self._reset(seed)
        where, remedy = f"action {_NONSENSE!r}", "it must raise a ValueError that names the action"
        try:
            self.env.step(_NONSENSE)
        except ValueError as error:
            if _NONSENSE not in str(error):
                self._note(where, f"an invalid action raised {error!r}; {remedy}")
        except Exception as error:  # whatever else it raises is a violation to be named
            self._note(where, f"an invalid action raised {type(error).__name__}; {remedy}")
        else:
            self._note(where, f"an invalid action was accepted; {remedy}")

    def _call(self, where: str, function: Callable[[], Any]) -> Any:
        try:
            return function()
        except Exception as error:  # whatever it raises is a violation to be named
            self._break(where, f"it raised {type(error).__name__}: {error}")

    def _note(self, where: str, fault: str) -> None:
        self.violations.setdefault(fault, f"{where}: {fault}")

    def _break(self, where: str, fault: str) -> NoReturn:
        self._note(where, fault)
        raise Broken
