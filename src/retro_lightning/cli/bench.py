"""Behaviour half: the ``bench`` command: every estimator and baseline on one stored batch."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jsonargparse import Namespace

from retro_lightning.cli.bench_table import show
from retro_lightning.config import command
from retro_lightning.credit import baselines as single
from retro_lightning.credit import estimators as named
from retro_lightning.credit import group_baselines as grouped
from retro_lightning.credit.baselines import Baseline
from retro_lightning.credit.objective import Objective
from retro_lightning.policy.divergence import mean_divergences
from retro_lightning.policy.policy import Policy
from retro_lightning.replay.store import ReplayStore
from retro_lightning.rollout.collector import Job, collect
from retro_lightning.rollout.seeds import generator
from retro_lightning.tracking.credit_map import credit_map
from retro_lightning.tracking.mlflow import MLflowRun
from retro_lightning.training import bench as room
from retro_lightning.training import other_policies
from retro_lightning.training.reference import Reference, reference_gradient
from retro_lightning.training.stored_batch import StoredBatch, stored_batch

if TYPE_CHECKING:
    from retro_lightning.config.command import Command, Parser

_DIVERGENCE_OF = 8
"""Trajectories over which distributions over valid actions are compared."""


def add_arguments(parser: Parser) -> None:
    """The command's own arguments, beside the configuration of a run."""
    parser.add_argument("--store", type=str, required=True, help="Folder of the replay store.")
    parser.add_argument(
        "--trajectories", type=int, default=64, help="Stored trajectories in the batch."
    )
    parser.add_argument(
        "--reference",
        type=int,
        default=5000,
        help="Fresh episodes of the reference gradient; 0 = no reference.",
    )
    parser.add_argument("--json", action="store_true", help="Print the result as JSON.")
    parser.add_argument(
        "--figure",
        type=str | None,
        default=None,
        help="File of the credit map; default: credit_map.png in the run's directory.",
    )


def bench(name: str, args: Sequence[str]) -> None:
    """Measure, print and log.

    Raises:
        ValueError: If what is to be measured is not named, or there is too little of it.
    """
    if not args or args[0] not in ("estimators", "returns", "off-policy"):
        raise ValueError("what should be measured? bench estimators, returns or off-policy …")
    if args[0] == "off-policy":
        from retro_lightning.cli.bench_off_policy import bench_off_policy

        bench_off_policy(args[1:])
        return
    if args[0] == "returns":
        from retro_lightning.cli.bench_returns import bench_returns

        bench_returns(args[1:])
        return
    cli = command.build(name, list(args[1:]), add_arguments)
    config = cli.config_init
    if config.policy is None:
        raise ValueError("at which policy? give --policy DIRECTORY")
    policy = Policy.load(config.policy).eval()
    store = ReplayStore(config.store)
    objectives = _objectives(cli)
    anchor = _anchor(cli, policy, objectives.values())
    batch = _batch(policy, store, config.trajectories, cli.datamodule.seed, anchor)
    shares = _shares(batch.trajectories)
    reference = _reference(cli, policy, shares, config.reference)
    measured = room.measure(
        batch,
        store.index,
        room.compatible(objectives, _baselines()),
        lambda rows: store.read(list(rows)),
        None if reference is None else reference.gradient,
    )
    result: dict[str, Any] = {
        "trajectories": len(batch.trajectories),
        "families": shares,
        "reference": None if reference is None else _plain(reference),
        "distribution": policy.distribution.kind,
        "divergence": mean_divergences(policy, batch.trajectories[:_DIVERGENCE_OF]),
        "rows": [_row(pair) for pair in measured.pairs],
        "notes": measured.notes,
    }
    path = Path(config.figure) if config.figure else cli.run_dir / "credit_map.png"
    _draw(batch, measured.pushes, path)
    _log(cli, result, path)
    if config.json:
        print(json.dumps({**result, "figure": str(path)}, indent=1))
    else:
        show(result, path)


def _row(measured: room.Measured) -> dict[str, Any]:
    """A measurement as plain data; what could not be measured is None, as JSON has it."""
    values = dataclasses.asdict(measured)
    return {
        key: None if isinstance(value, float) and not np.isfinite(value) else value
        for key, value in values.items()
    }


def _plain(reference: Reference) -> dict[str, float]:
    """All of a reference but the gradient."""
    values = dataclasses.asdict(reference)
    return {key: value for key, value in values.items() if key != "gradient"}


def _anchor(
    cli: Command, policy: Policy, objectives: Iterable[Objective]
) -> other_policies.Reference | None:
    """What a KL is taken to, where an objective takes one and the configuration has one."""
    anchor = other_policies.Reference(cli.model.reference_policy)
    wanted = any(objective.needs_reference for objective in objectives)
    return anchor if wanted and anchor.exists(policy) else None


def _batch(
    policy: Policy,
    store: ReplayStore,
    count: int,
    seed: int,
    anchor: other_policies.Reference | None,
) -> StoredBatch:
    """Trajectories drawn at random from what may be learnt from."""
    index = store.index
    usable = np.flatnonzero(index.is_train & ~index.faulted & (index.length > 0))
    if count < 2 or len(usable) < count:
        raise ValueError(
            f"--trajectories is {count}, but the store has {len(usable)} that can be learnt from: "
            "give a number between 2 and that"
        )
    drawn = generator(seed, "bench").choice(usable, count, replace=False)
    rows = sorted(int(row) for row in drawn)
    trajectories = store.read(rows)
    fingerprint, version = policy.transcript.fingerprint, policy.version
    fresh = [
        t.tokenizer == fingerprint and t.policy_version == version and t.source == "rollout"
        for t in trajectories
    ]
    return stored_batch(policy, trajectories, rows, fresh, anchor)


def _shares(trajectories: Sequence[Any]) -> dict[str, float]:
    families = [t.task.family for t in trajectories]
    return {name: families.count(name) / len(families) for name in sorted(set(families))}


def _reference(
    cli: Command, policy: Policy, shares: dict[str, float], episodes: int
) -> Reference | None:
    """The on-policy gradient on training tasks of the batch's families, in turn."""
    if episodes == 0:
        return None
    tasks = {f: found for f, found in cli.datamodule.tasks("train").items() if f in shares}
    missing = sorted(set(shares) - set(tasks))
    if missing:
        raise ValueError(
            f"the store has trajectories of {missing[0]}, for which the configuration has no "
            "environment: add it to data.environments, or give --reference 0"
        )
    in_turn = [t for group in itertools.zip_longest(*tasks.values()) for t in group if t]
    endless = (Job(task, attempt) for attempt in itertools.count() for task in in_turn)
    fresh = collect(
        policy,
        cli.datamodule.environments,
        list(itertools.islice(endless, episodes)),
        run="bench",
        seed=cli.datamodule.seed,
        arm="bench",
    )
    return reference_gradient(policy, list(fresh), shares)


def _objectives(cli: Command) -> dict[str, Objective]:
    """The configured objectives, and every preset."""
    leave_out: dict[str, Any] = {"unknown_behaviour": "leave_out"}
    presets: list[Objective] = [
        named.REINFORCE(),
        named.RLOO(),
        named.GRPO(**leave_out),
        named.PPO(**leave_out),
        named.VTraceActorCritic(**leave_out),
        named.PerDecisionImportanceSampling(**leave_out),
        named.PolicyGradient(),
        named.AdvantageWeightedCloning(),
        named.FilteredCloning(),
        named.ReturnConditioned(),
    ]
    return {
        **{f"phase {n}": phase.objective for n, phase in enumerate(cli.model.phases)},
        **{objective.name: objective for objective in presets},
    }


def _baselines() -> list[Baseline]:
    return [
        single.NoBaseline(),
        single.Constant(),
        single.MovingAverage(),
        single.PerTask(),
        single.BatchMean(),
        grouped.LeaveOneOut(),
        grouped.GroupMean(),
        grouped.AnchorStates(),
        single.ValueHeadBaseline(),
    ]


def _draw(batch: StoredBatch, pushes: dict[str, list[float]], path: Path) -> None:
    longest = int(batch.inputs.steps_BS.sum(dim=1).argmax())
    trajectory = batch.trajectories[longest]
    length = int(batch.inputs.steps_BS[longest].sum())
    outcome = f"return {trajectory.total_return:.2f}"
    path.parent.mkdir(parents=True, exist_ok=True)
    credit_map(
        pushes,
        [step.action for step in trajectory.steps[:length]],
        title=f"{trajectory.task.instruction} ({trajectory.behaviour_id}, {outcome})",
    ).savefig(path)


def _log(cli: Command, result: dict[str, Any], figure: Path) -> None:
    """Log to MLflow, where the configuration does."""
    settings = cli.config.trainer.logger
    if not isinstance(settings, Namespace) or not settings.class_path.endswith("MLflowRun"):
        return
    logger = MLflowRun(**vars(settings.get("init_args") or {}))
    logger.attach(cli.run_dir, name=f"{cli.run_name}-bench", remember=False, resume=False)
    metrics = {
        f"bench/{row['estimator']}/{row['baseline'] or 'none'}/{key}": row[key]
        for row in result["rows"]
        for key in ("variance", "cut", "cosine", "bias_off_policy", "milliseconds")
        if row[key] is not None
    }
    for key, value in (result["reference"] or {}).items():
        metrics[f"bench/reference/{key}"] = value
    logger.log_metrics(metrics, step=0)
    logger.log_file(figure, "figures")
    logger.log_rows(result["rows"], "bench.json")
    logger.finalize("success")
