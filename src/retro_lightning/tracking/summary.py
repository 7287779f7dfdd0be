"""Behaviour half: a callback that closes a run: one table by family, and where everything is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.table import Table

from retro_lightning.evaluation import EvaluationCounts, wilson
from retro_lightning.tracking.curves import save_figure
from retro_lightning.tracking.figures import SuccessRow, success_bars

RESULTS_FILE = "test.json"
_LOG = "log: "
Counts = Mapping[str, tuple[int, int]]
"""Family → successes and episodes."""


class ClosingTable(Callback):
    """Prints success on the test tasks by family, beside every behaviour that wrote the history.

    Behaviours are counted on the history's own (training) tasks, the policy on the test tasks. The
    counts are kept in ``test.json`` of the run's directory.

    Args:
        beside: Other runs to show: label → directory of the run; one without results is left out.
    """

    def __init__(self, beside: dict[str, str] | None = None) -> None:
        super().__init__()
        self.beside = beside if beside is not None else {}

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the table, draw it, keep the counts."""
        counts = getattr(pl_module, "counts", None)
        if not trainer.is_global_zero or not isinstance(counts, EvaluationCounts):
            return
        run_dir = Path(trainer.default_root_dir)
        tested = {name: (c.successes, c.episodes) for name, c in counts.families.items()}
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / RESULTS_FILE).write_text(json.dumps(tested, indent=2) + "\n", encoding="utf-8")
        faults = {name: c.faults for name, c in counts.families.items() if c.faults}
        columns = {
            **{f"{_LOG}{name}": c for name, c in self._logged(trainer).items()},
            **{name: c for name, path in self.beside.items() if (c := read_results(Path(path)))},
            "policy": tested,
        }
        rows = success_rows(columns, list(tested))
        save_figure(
            trainer,
            success_bars(rows, title="Success by family", emphasised="policy"),
            "test_success",
        )
        console = Console()
        console.print(closing_table(columns, list(tested), faults))
        for line in directions(run_dir):
            console.print(line, highlight=False, soft_wrap=True)

    def _logged(self, trainer: L.Trainer) -> dict[str, Counts]:
        """Successes of each behaviour in the history, where the run has read one."""
        store = getattr(trainer.datamodule, "history_store", None)  # type: ignore[attr-defined]
        if store is None:
            return {}
        by_behaviour: dict[str, dict[str, tuple[int, int]]] = {}
        for (family, behaviour), outcome in store.index.success_table().items():
            by_behaviour.setdefault(behaviour, {})[family] = outcome
        worst_first = sorted(by_behaviour.items(), key=lambda item: macro_rate(item[1]))
        return dict(worst_first)


def macro_rate(counts: Counts) -> float:
    """Mean of the families' success rates, each counting alike; 0 for one that only faulted."""
    rates = [successes / episodes if episodes else 0.0 for successes, episodes in counts.values()]
    return sum(rates) / len(rates) if rates else 0.0


def read_results(run_dir: Path) -> Counts | None:
    """The test counts that a run has kept, if it has."""
    path = run_dir / RESULTS_FILE
    if not path.is_file():
        return None
    return {name: (int(c[0]), int(c[1])) for name, c in json.loads(path.read_text()).items()}


def success_rows(columns: Mapping[str, Counts], families: Sequence[str]) -> list[SuccessRow]:
    """Success with Wilson intervals, for a figure."""
    rows = []
    for behaviour, counts in columns.items():
        for family in families:
            successes, episodes = counts.get(family, (0, 0))
            if episodes:
                low, high = wilson(successes, episodes)
                rows.append(SuccessRow(family, behaviour, successes / episodes, low, high))
    return rows


def closing_table(
    columns: Mapping[str, Counts], families: Sequence[str], faults: Mapping[str, int] | None = None
) -> Table:
    """One row per family and one for their mean; the interval is the policy's.

    Args:
        columns: Whose success → their counts; ``policy`` among them.
        families: The rows.
        faults: Family → test episodes in which the environment raised; they are left out of the
            rate, and a family in which all did counts 0 in the mean.
    """
    caption = "policy: on test tasks, with the 95 % Wilson interval of this one checkpoint"
    if any(name.startswith(_LOG) for name in columns):
        caption += f"; {_LOG.strip()} behaviours that wrote the history, on its own training tasks"
    if faults:
        told = ", ".join(f"{count} of {family}" for family, count in faults.items())
        caption += f"; episodes that faulted and are left out: {told}"
    table = Table(title="Share of tasks solved", caption=caption)
    table.add_column("family", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", overflow="fold")
    table.add_column("interval", no_wrap=True)
    for family in families:
        low, high = wilson(*columns["policy"].get(family, (0, 0)))
        rates = [_rate(counts, family) for counts in columns.values()]
        table.add_row(family, *rates, f"{low:.2f} to {high:.2f}")
    table.add_section()
    means = [f"{macro_rate(counts):.2f}" for counts in columns.values()]
    table.add_row("mean over families", *means, "", style="bold")
    return table


def _rate(counts: Counts, family: str) -> str:
    successes, episodes = counts.get(family, (0, 0))
    return f"{successes / episodes:.2f}" if episodes else "-"


def directions(run_dir: Path) -> list[str]:
    """Where the run's things are, and the commands to look at them."""
    lines = [f"run      {run_dir}"]
    policy = run_dir / "checkpoints" / "best-policy"
    if policy.is_dir():
        config = run_dir / "config.yaml"
        command = f"python -m retro_lightning play --config {config} --policy {policy}"
        lines += [f"policy   {policy}", f"watch    {command}"]
    return [*lines, f"figures  {run_dir / 'figures'}", "compare  mlflow ui"]
