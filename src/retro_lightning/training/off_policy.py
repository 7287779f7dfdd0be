"""Behaviour half: what policies say of logged trajectories, and how good that makes them seem.

Steps must list their valid actions. The features of fitted Q are the policy's own: the hidden state
before the action, the family and the number of the step, and how probable the policy finds the
action itself, which is all that tells actions of one state apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from retro_lightning.credit.fitted_q import fitted_q
from retro_lightning.credit.off_policy import (
    Estimate,
    Ratios,
    Refused,
    doubly_robust,
    per_decision,
    weighted_importance_sampling,
)
from retro_lightning.environments.base import EnvironmentFactory
from retro_lightning.policy.policy import Policy
from retro_lightning.rollout.collector import Job, collect
from retro_lightning.trajectory import Trajectory

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

ESTIMATORS = ("fitted Q", "weighted IS", "per decision", "doubly robust")
"""All but the first are importance sampling with normalised weights."""

_ROWS = 64


@dataclass(frozen=True)
class Log:
    """Logged trajectories, whatever policy is judged by them.

    Attributes:
        trajectories: The trajectories [B].
        rewards_BS: Rewards.
        steps_BS: Mask of steps.
        behaviour_logprobs_BS: Log-probability of each action under its behaviour; NaN = unknown.
        supported_BS: Whether the behaviour gave every valid action a positive probability.
        ratios_B: Whether a trajectory's behaviour supports and knows all that it did anywhere in
            the log: what importance sampling may use. A choice by behaviour, never by outcome.
    """

    trajectories: Sequence[Trajectory]
    rewards_BS: Floats
    steps_BS: Mask
    behaviour_logprobs_BS: Floats
    supported_BS: Mask
    ratios_B: Mask

    @classmethod
    def of(cls, trajectories: Sequence[Trajectory]) -> Log:
        """Pad trajectories.

        Raises:
            ValueError: If a step does not list its valid actions.
        """
        shape = (len(trajectories), max(t.length for t in trajectories))
        rewards_BS, steps_BS = np.zeros(shape), np.zeros(shape, np.bool_)
        logs_BS, supported_BS = np.full(shape, np.nan), np.zeros(shape, np.bool_)
        for b, trajectory in enumerate(trajectories):
            for s, step in enumerate(trajectory.steps):
                if step.valid_actions is None:
                    raise ValueError(
                        f"task {trajectory.task.task_id}, step {s} is free text: off-policy "
                        "evaluation needs steps that list their valid actions"
                    )
                rewards_BS[b, s], steps_BS[b, s] = step.reward, True
                if step.log_prob is not None and step.log_probs is not None:
                    logs_BS[b, s] = step.log_prob
                    supported_BS[b, s] = np.isfinite(step.log_probs).all()
        sound_B = (supported_BS | ~steps_BS).all(axis=1)
        unsound = {trajectories[row].behaviour_id for row in np.flatnonzero(~sound_B).tolist()}
        ratios_B = np.array([t.behaviour_id not in unsound for t in trajectories])
        return cls(trajectories, rewards_BS, steps_BS, logs_BS, supported_BS, ratios_B)


@dataclass(frozen=True)
class Said:
    """What a policy says of a log.

    Attributes:
        logprobs_BS: Log-probability of each action taken; 0 at padding.
        features_BSF: Features of the state and of the action taken.
        policy_features_BSF: Their mean over the policy's own actions.
    """

    logprobs_BS: Floats
    features_BSF: Floats
    policy_features_BSF: Floats


@torch.no_grad()
def said(policy: Policy, log: Log) -> Said:
    """Ask a policy, in evaluation mode, for its distribution at every step of a log.

    Raises:
        ValueError: If a trajectory does not fit into the policy's context.
    """
    families = sorted({t.task.family for t in log.trajectories})
    parts = [
        _said(policy, log.trajectories[start : start + _ROWS], families, log.steps_BS.shape[1])
        for start in range(0, len(log.trajectories), _ROWS)
    ]
    return Said(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def _said(
    policy: Policy, trajectories: Sequence[Trajectory], families: Sequence[str], longest: int
) -> tuple[Floats, Floats, Floats]:
    logprobs_BS = np.zeros((len(trajectories), longest))
    taken: list[list[Floats]] = [[] for _ in trajectories]
    meant: list[list[Floats]] = [[] for _ in trajectories]
    for row, s, state_H, log_A in _turns(policy, trajectories):
        step, name = trajectories[row].steps[s], trajectories[row].task.family
        action = (step.valid_actions or ()).index(step.action)
        logprobs_BS[row, s] = log_A[action]
        family = np.array([name == other for other in families], np.float64)
        head = [state_H, family, family * s / longest]
        p_A = np.exp(log_A)
        taken[row].append(np.concatenate([*head, family * p_A[action]]))
        meant[row].append(np.concatenate([*head, family * (p_A @ p_A)]))
    return logprobs_BS, _padded(taken, longest), _padded(meant, longest)


def _turns(
    policy: Policy, trajectories: Sequence[Trajectory]
) -> Iterator[tuple[int, int, Floats, Floats]]:
    """Row, step, hidden state before the action and log-probability of every valid action.

    All trajectories are read beside each other, turn by turn, each token once.
    """
    encoded = policy.transcript.encode_many(trajectories)
    cache = policy.cached_decoder(rows=len(trajectories))
    prompts_BH = policy.prompts([t.task for t in trajectories])
    starts = [0] * len(trajectories)
    for row, (trajectory, one) in enumerate(zip(trajectories, encoded, strict=True)):
        if one.steps < trajectory.length:
            raise ValueError(
                f"task {trajectory.task.task_id}: only {one.steps} of {trajectory.length} steps "
                "fit into the policy's context"
            )
        cache.start(row, None if prompts_BH is None else prompts_BH[row])
    for s in range(max(t.length for t in trajectories)):
        rows = [row for row, t in enumerate(trajectories) if s < t.length]
        menus = [trajectories[row].steps[s].valid_actions or () for row in rows]
        tries = [policy.transcript.trie(menu) for menu in menus]
        chunks = []
        for row in rows:
            end = int(encoded[row].action_positions[s]) + 1
            chunks.append(encoded[row].tokens[starts[row] : end])
            starts[row] = end
        hidden_RWH = cache.feed(rows, chunks, tries)
        states_RH = hidden_RWH[:, 0].double().cpu().numpy()
        every = policy.log_probs(hidden_RWH, tries)
        yield from zip(rows, [s] * len(rows), states_RH, every, strict=True)


def _padded(rows: Sequence[Sequence[Floats]], longest: int) -> Floats:
    result = np.zeros((len(rows), longest, len(rows[0][0])))
    for row, steps in enumerate(rows):
        result[row, : len(steps)] = steps
    return result


def estimates(
    log: Log, found: Said, horizon: int, rng: np.random.Generator
) -> dict[str, Estimate | str]:
    """The expected return within so many steps, by each estimator, or why there is none.

    Returns are not discounted. The Q of the doubly robust estimate is fitted to the same log.

    Args:
        log: The log.
        found: What the policy that is judged says of it.
        horizon: Steps that count, from the first on.
        rng: Draws the resamples of fitted Q evaluation.
    """
    cut = np.s_[:, :horizon]
    steps_BS, rewards_BS = log.steps_BS[cut], log.rewards_BS[cut]
    taken_BSF, meant_BSF = found.features_BSF[cut], found.policy_features_BSF[cut]
    sound_B = log.ratios_B
    results: dict[str, Estimate | str] = {}
    try:
        results["fitted Q"], weights_F = fitted_q(
            taken_BSF, meant_BSF, rewards_BS, steps_BS, 1.0, rng=rng
        )
        ratios = Ratios(
            logprobs_BS=found.logprobs_BS[cut][sound_B],
            behaviour_logprobs_BS=log.behaviour_logprobs_BS[cut][sound_B],
            supported_BS=log.supported_BS[cut][sound_B],
            steps_BS=steps_BS[sound_B],
            rewards_BS=rewards_BS[sound_B],
        )
        q_BS, values_BS = taken_BSF[sound_B] @ weights_F, meant_BSF[sound_B] @ weights_F
    except Refused as refused:
        return {name: results.get(name, str(refused)) for name in ESTIMATORS}
    sampled: dict[str, Callable[[], Estimate]] = {
        "weighted IS": lambda: weighted_importance_sampling(ratios, 1.0),
        "per decision": lambda: per_decision(ratios, 1.0),
        "doubly robust": lambda: doubly_robust(ratios, q_BS, values_BS, 1.0),
    }
    for name, estimate in sampled.items():
        try:
            results[name] = estimate()
        except Refused as refused:
            results[name] = str(refused)
    return results


def fresh_returns(
    policy: Policy,
    environments: Mapping[str, EnvironmentFactory],
    log: Log,
    episodes: int,
    seed: int,
) -> Floats:
    """Rewards of fresh episodes at the log's tasks, padded with 0 [N, S]: the truth.

    Args:
        policy: Who acts, in evaluation mode.
        environments: The families.
        log: Whose tasks are tried, in its order and again from the first.
        episodes: How many.
        seed: Seed of the actions.
    """
    tasks = [log.trajectories[number % len(log.trajectories)].task for number in range(episodes)]
    times: dict[str, int] = {}
    jobs = []
    for task in tasks:
        times[task.task_id] = times.get(task.task_id, -1) + 1
        jobs.append(Job(task, times[task.task_id]))
    made = list(collect(policy, environments, jobs, run="bench", seed=seed, arm="off-policy"))
    rewards_NS = np.zeros((len(made), max(1, max(t.length for t in made))))
    for row, trajectory in enumerate(made):
        rewards_NS[row, : trajectory.length] = [step.reward for step in trajectory.steps]
    return rewards_NS
