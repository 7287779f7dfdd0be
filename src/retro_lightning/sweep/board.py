"""Behaviour half: what a person sees of a study: a live table of its trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from retro_lightning.sweep.slots import Slots, counts, reason

_SHOWN = 20
_WORDS = {
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "stopped early",
    TrialState.FAIL: "failed",
}


class Board:
    """Shows the trials of a phase, live on a terminal, else a line for each that has ended.

    Args:
        slots: The trials.
        title: What the table is called.
        metrics: Metric → direction.
        console: Where it is shown.
    """

    def __init__(
        self, slots: Slots, title: str, metrics: Mapping[str, str], console: Console
    ) -> None:
        self._slots, self._title, self._metrics, self._console = slots, title, metrics, console
        self._told: set[int] = {t.number for t in slots.trials() if t.state.is_finished()}
        self._live = Live(
            console=console, refresh_per_second=1, redirect_stdout=False, redirect_stderr=False
        )

    def __enter__(self) -> Board:
        """Begin to show."""
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Show the end state."""
        self.update()
        if self._console.is_terminal:
            self._live.stop()

    def update(self) -> None:
        """Show what is new."""
        trials = self._slots.trials()
        if self._console.is_terminal:
            self._live.update(table(trials, self._title, self._metrics))
            return
        for trial in trials:
            if trial.state.is_finished() and trial.number not in self._told:
                self._told.add(trial.number)
                words = [f"trial {trial.number}", _state(trial), _values(trial)]
                done = len(self._slots.settled())
                line = "  ".join(w for w in words if w)
                best = best_of(trials, self._metrics)
                tail = "" if best is None else f"  best: trial {best.number} {_values(best)}"
                line = f"{line}  ({done}/{self._slots.count}){tail}"
                self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def best_of(trials: Sequence[FrozenTrial], metrics: Mapping[str, str]) -> FrozenTrial | None:
    """The best trial by the first metric; None if none has been done."""
    done = [t for t in trials if t.state == TrialState.COMPLETE and counts(t)]
    if not done:
        return None
    sign = 1.0 if next(iter(metrics.values())) == "maximize" else -1.0
    return max(done, key=lambda t: (sign * t.values[0], -t.number))


def table(trials: Sequence[FrozenTrial], title: str, metrics: Mapping[str, str]) -> Table:
    """The latest trials, and the best whenever it ended."""
    best = best_of(trials, metrics)
    shown = [t for t in trials if counts(t)]
    latest = shown[-_SHOWN:]
    if best is not None and best not in latest:
        latest = [best, *latest]
    view = Table(title=f"{title}: {len(shown)} trials", caption=_caption(shown, len(latest)))
    view.add_column("trial", justify="right")
    view.add_column("state")
    for metric in metrics:
        view.add_column(metric, justify="right")
    view.add_column("chosen", overflow="fold")
    for trial in latest:
        values = [f"{value:.3f}" for value in _numbers(trial)]
        values += ["-"] * (len(metrics) - len(values))
        chosen = ", ".join(f"{_last(k)} {_short(v)}" for k, v in trial.params.items())
        is_best = best is not None and trial.number == best.number
        view.add_row(
            str(trial.number),
            escape(_state(trial)),
            *values,
            escape(chosen),
            style="bold green" if is_best else None,
        )
    return view


def _caption(trials: Sequence[FrozenTrial], shown: int) -> str:
    by_state = {word: sum(t.state == s for t in trials) for s, word in _WORDS.items()}
    parts = [f"{count} {word}" for word, count in by_state.items() if count]
    return ", ".join(parts) + (f"; {shown} shown" if shown < len(trials) else "")


def _state(trial: FrozenTrial) -> str:
    why = reason(trial)
    return f"{_WORDS[trial.state]}: {why}" if why else _WORDS[trial.state]


def _numbers(trial: FrozenTrial) -> list[float]:
    if trial.values:
        return list(trial.values)
    if trial.last_step is not None:
        return [trial.intermediate_values[trial.last_step]]
    return []


def _values(trial: FrozenTrial) -> str:
    return " ".join(f"{value:.3f}" for value in _numbers(trial))


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
