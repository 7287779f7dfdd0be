"""Behaviour half: ``bench off-policy``: estimates from a log against what fresh episodes tell."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from retro_lightning.config import command
from retro_lightning.credit.off_policy import Estimate
from retro_lightning.credit.off_policy_evidence import Evidence, evidence, rank_correlation
from retro_lightning.policy.policy import Policy
from retro_lightning.replay.store import ReplayStore
from retro_lightning.rollout.seeds import generator
from retro_lightning.training.off_policy import ESTIMATORS, Log, estimates, fresh_returns, said

if TYPE_CHECKING:
    from retro_lightning.config.command import Command, Parser


def add_arguments(parser: Parser) -> None:
    """The command's own arguments, beside the configuration of a run."""
    add = parser.add_argument
    add("--policies", nargs="+", type=str, required=True, help="Policy directories to judge.")
    add("--store", type=str, required=True, help="Replay store that they are judged by.")
    add("--trajectories", type=int, default=600, help="At most so many stored trajectories.")
    add("--episodes", type=int, default=600, help="Fresh episodes of each policy: the truth.")
    add(
        "--horizons",
        nargs="+",
        type=int,
        default=[4, 8],
        help="Steps whose rewards count; whole episodes are judged beside them.",
    )
    add("--json", action="store_true", help="Print the result as JSON.")


def bench_off_policy(args: Sequence[str]) -> None:
    """Judge policies by a log and by trying them; say which estimator may be trusted.

    Raises:
        ValueError: If a number is impossible or the store has nothing to judge by.
    """
    cli = command.build("bench", list(args), add_arguments)
    config = cli.config_init
    for name in ("trajectories", "episodes"):
        if getattr(config, name) < 2:
            raise ValueError(f"--{name} is {getattr(config, name)}; give a number of at least 2")
    if min(config.horizons) < 1:
        raise ValueError(f"--horizons has {min(config.horizons)}; give steps of at least 1")
    log = _log(ReplayStore(config.store), config.trajectories, cli)
    longest = log.steps_BS.shape[1]
    horizons = sorted({min(horizon, longest) for horizon in config.horizons} | {longest})
    console = Console(stderr=True)
    rows = []
    for number, path in enumerate(config.policies, start=1):
        if console.is_terminal:
            console.print(f"{number} of {len(config.policies)}: {path}")
        rows += _judged(path, log, horizons, config.episodes, cli)
    result = {
        "trajectories": len(log.trajectories),
        "with_ratios": int(log.ratios_B.sum()),
        "episodes": config.episodes,
        "rows": rows,
        "evidence": _summary(rows, horizons),
    }
    if config.json:
        print(json.dumps(_plain(result), indent=1))
    else:
        _show(result)


def _log(store: ReplayStore, count: int, cli: Command) -> Log:
    """Trajectories of configured families drawn at random, in the store's order."""
    index, seed = store.index, cli.datamodule.seed
    known = [code for code, f in enumerate(index.families) if f in cli.datamodule.environments]
    sound = ~index.faulted & (index.length > 0) & np.isin(index.family, known)
    usable = np.flatnonzero(sound)
    if len(usable) < 2:
        raise ValueError(
            f"the store {store.path} has {len(usable)} trajectories with steps of a family that "
            "the configuration has an environment for: give another --store or --config"
        )
    drawn = generator(seed, "off-policy").choice(usable, min(count, len(usable)), replace=False)
    return Log.of(store.read(sorted(drawn.tolist())))


def _judged(
    path: str, log: Log, horizons: Sequence[int], episodes: int, cli: Command
) -> list[dict[str, Any]]:
    """Of one policy: a row for each horizon and estimator."""
    data = cli.datamodule
    policy = Policy.load(path).eval()
    rewards_NS = fresh_returns(policy, data.environments, log, episodes, data.seed)
    found = said(policy, log)
    rows = []
    for horizon in horizons:
        returns_N = rewards_NS[:, :horizon].sum(axis=1)
        truth = {
            "truth": float(returns_N.mean()),
            "truth_error": float(returns_N.std(ddof=1)) / math.sqrt(len(returns_N)),
        }
        rng = generator(data.seed, "off-policy", policy.version, horizon)
        for name, estimate in estimates(log, found, horizon, rng).items():
            head = {"policy": path, "version": policy.version, "horizon": horizon, **truth}
            if isinstance(estimate, Estimate):
                told: dict[str, Any] = {**dataclasses.asdict(estimate), "refused": None}
            else:
                told = {"method": name, "refused": estimate}
            rows.append({**head, "estimator": name, **told})
    return rows


def _summary(rows: Sequence[dict[str, Any]], horizons: Sequence[int]) -> list[dict[str, Any]]:
    """Evidence by horizon and estimator, beside that of calling the latest policy the best."""
    summary = []
    for horizon in horizons:
        for name in ESTIMATORS:
            mine = [r for r in rows if (r["horizon"], r["estimator"]) == (horizon, name)]
            truths = np.array([row["truth"] for row in mine])
            versions = np.array([row["version"] for row in mine], np.float64)
            found: Evidence = evidence([_estimate(row) for row in mine], truths.tolist())
            summary.append(
                {
                    "horizon": horizon,
                    "estimator": name,
                    **dataclasses.asdict(found),
                    "trusted": found.trusted,
                    "refused": len(mine) - found.judged,
                    "latest_rank_correlation": rank_correlation(versions, truths),
                    "latest_regret": float(truths.max() - truths[versions.argmax()]),
                }
            )
    return summary


def _estimate(row: dict[str, Any]) -> Estimate | None:
    if row["refused"] is not None:
        return None
    return Estimate(**{field.name: row[field.name] for field in dataclasses.fields(Estimate)})


def _plain(value: Any) -> Any:
    """Plain data; what could not be measured is None, as JSON has it."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _show(result: dict[str, Any]) -> None:
    each = Table(
        caption="worth: effective trajectories; +-: standard error of the truth.", padding=(0, 0)
    )
    _head(each, *("version", "steps", "estimate", "low", "high", "worth", "truth", "+-"))
    for row in result["rows"]:
        cells = ["-"] * 4
        if not row["refused"]:
            cells = [f"{row[key]:.3f}" for key in ("value", "low", "high")]
            cells.append(f"{row['sample_size']:.0f}")
        truth = (f"{row[key]:.3f}" for key in ("truth", "truth_error"))
        each.add_row(row["estimator"], str(row["version"]), str(row["horizon"]), *cells, *truth)
    Console().print(each)
    table = Table(
        padding=(0, 0),
        caption=f"{result['trajectories']} stored trajectories, {result['with_ratios']} of them "
        f"with ratios; {result['episodes']} fresh episodes of each policy. cover: intervals that "
        "hold the truth; rank: rank correlation, low: its lower limit; regret: regret@1. trusted: "
        "a lower limit of at least 0.6 over at least 20 policies, so that it may choose "
        "between such policies. latest: rank and regret of calling the latest policy the best.",
    )
    _head(table, "steps", "judged", "cover", "rank", "low", "regret", "trusted", "latest", "")
    for row in result["evidence"]:
        keys = ("coverage", "rank_correlation", "rank_low", "regret")
        numbers = ("-" if math.isnan(row[key]) else f"{row[key]:.2f}" for key in keys)
        latest = (f"{row[f'latest_{key}']:.2f}" for key in ("rank_correlation", "regret"))
        head = (row["estimator"], str(row["horizon"]), str(row["judged"]))
        table.add_row(*head, *numbers, "yes" if row["trusted"] else "no", *latest)
    Console().print(table)


def _head(table: Table, *headings: str) -> None:
    table.add_column("estimator", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
