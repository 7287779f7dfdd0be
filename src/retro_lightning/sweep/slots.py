"""Behaviour half: which trials a study still has to run, shared between workers that may be killed.

A study of n trials has n *slots*. A trial takes a slot when it is asked for; a trial whose worker
died is buried and its slot's next trial waits with the same parameters. Everything is decided from
what the storage holds for good (a trial's number, which trial it repeats), so that it does not
matter who decides it, or how often, or whether they live to finish:

- The slot of a trial is that of the trial it repeats, or else the number of earlier trials that
  repeat none. A trial beyond the last slot is *surplus*, and so is a second repetition, or one of
  a trial that was only slow.
- A dead trial's repetition is queued before the dead one is marked as failed.

Optuna's own heartbeat is not used: it exists for databases alone, fails a dead trial before it
queues the repetition, and a worker killed in between loses the trial.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from retro_lightning.sweep.storage import Lock

_WORKER, _BEAT, _REASON = "worker", "beat", "reason"
_REPEATS, _RETRIES, _SURPLUS, _REPLACED = "repeats", "retries", "surplus", "replaced"
_SILENT_BEATS = 6


class Slots:
    """The trials of a study that are to be run.

    Args:
        study: The study.
        lock: Lock over its workers.
        count: Number of slots.
        retries: How often a slot is tried again after its worker was killed.
        heartbeat_seconds: Time between two signs of life.
        on_buried: Called with the number of each trial that was found dead.
    """

    def __init__(
        self,
        study: optuna.Study,
        lock: Lock,
        *,
        count: int,
        retries: int,
        heartbeat_seconds: float,
        on_buried: Callable[[int], None],
    ) -> None:
        self.study, self.count = study, count
        self._lock, self._retries, self._heartbeat = lock, retries, heartbeat_seconds
        self._on_buried = on_buried
        self._watched: dict[int, tuple[Any, float]] = {}

    # ------------------------------------------------------------------ claiming
    def claim(self) -> optuna.Trial | None:
        """A trial to run now; None if every slot is taken or done."""
        with self._lock():
            self._bury_dead()
            while self._free():
                trial = self.study.ask()
                trial.set_user_attr(_WORKER, _me())
                if not self._is_surplus(trial.number):
                    return trial
                trial.set_user_attr(_SURPLUS, True)
                self.study.tell(trial, state=TrialState.FAIL)
        return None

    def wanted(self) -> bool:
        """Whether there is a trial that could be claimed now."""
        with self._lock():
            self._bury_dead()
            return self._free()

    def slot(self, number: int) -> int:
        """The slot of a trial."""
        trials = {t.number: t for t in self.trials()}
        while (before := trials[number].user_attrs.get(_REPEATS)) is not None:
            number = before
        return sum(
            t.number < number and _REPEATS not in t.user_attrs and _SURPLUS not in t.user_attrs
            for t in trials.values()
        )

    def trials(self) -> list[FrozenTrial]:
        """All trials, by number."""
        return self.study.get_trials(deepcopy=False)

    def settled(self) -> dict[int, FrozenTrial]:
        """Of every slot that is done the trial that counts."""
        done: dict[int, FrozenTrial] = {}
        for trial in self.trials():
            attrs = trial.user_attrs
            if trial.state.is_finished() and _SURPLUS not in attrs and _REPLACED not in attrs:
                done.setdefault(self.slot(trial.number), trial)
        return done

    def ended(self) -> list[int]:
        """Numbers of the trials that count and came to an end of their own, pruned ones too."""
        ends = (TrialState.COMPLETE, TrialState.PRUNED)
        return [t.number for t in self.settled().values() if t.state in ends]

    def done(self) -> bool:
        """Whether every slot is done."""
        return len(self.settled()) >= self.count

    def running(self) -> bool:
        """Whether any trial is under way in a process that lives, as far as is known."""
        return any(t.state == TrialState.RUNNING and not self._dead(t) for t in self.trials())

    def _free(self) -> bool:
        trials = self.trials()
        waiting = any(t.state == TrialState.WAITING for t in trials)
        firsts = sum(_REPEATS not in t.user_attrs and _SURPLUS not in t.user_attrs for t in trials)
        return waiting or firsts < self.count

    def _is_surplus(self, number: int) -> bool:
        trials = {t.number: t for t in self.trials()}
        before = trials[number].user_attrs.get(_REPEATS)
        if before is None:
            return self.slot(number) >= self.count
        twins = [t.number for t in trials.values() if t.user_attrs.get(_REPEATS) == before]
        risen = trials[before].state in (TrialState.COMPLETE, TrialState.PRUNED)
        return number != min(twins) or (risen and _REPLACED not in trials[before].user_attrs)

    # ------------------------------------------------------------------ living and dying
    @contextlib.contextmanager
    def alive(self, trial: optuna.Trial) -> Iterator[threading.Event]:
        """Give signs of life while the context lasts; the event says that nobody believed them."""
        stop, lost = threading.Event(), threading.Event()

        def beat() -> None:
            count = 0
            while not stop.wait(self._heartbeat):
                count += 1
                try:
                    trial.set_user_attr(_BEAT, count)
                except UpdateFinishedTrialError:
                    lost.set()
                    return
                except Exception:  # a storage that hiccups; the next beat may get through
                    continue

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield lost
        finally:
            stop.set()
            thread.join()

    def finish(self, trial: optuna.Trial, values: list[float]) -> None:
        """Record what a trial has found, unless it was taken for dead meanwhile."""
        self._tell(trial.number, TrialState.COMPLETE, values)

    def prune(self, trial: optuna.Trial) -> None:
        """Record that a trial was stopped early."""
        self._tell(trial.number, TrialState.PRUNED)

    def fail(self, number: int, reason: str) -> None:
        """Record a trial that failed by its own fault; it is not tried again."""
        self._attribute(number, _REASON, reason)
        self._tell(number, TrialState.FAIL)

    def give_up(self, number: int, reason: str) -> None:
        """Record a trial that a person stopped; its slot is free again."""
        with self._lock():
            self._repeat(self._trial(number), reason, counted=False)

    def of_worker(self, pid: int) -> list[FrozenTrial]:
        """Trials that a process of this machine has begun."""
        return [t for t in self.trials() if _same_process(t.user_attrs.get(_WORKER), pid)]

    def _bury_dead(self) -> None:
        for trial in self.trials():
            if trial.state == TrialState.RUNNING and self._dead(trial):
                if self._is_surplus(trial.number):
                    self._attribute(trial.number, _SURPLUS, True)
                    self._tell(trial.number, TrialState.FAIL)
                else:
                    self._repeat(trial, "its worker was killed", counted=True)
                self._on_buried(trial.number)

    def _dead(self, trial: FrozenTrial) -> bool:
        """Its process is gone from this machine, or it has been silent for long while we looked."""
        worker = trial.user_attrs.get(_WORKER)
        if worker is not None and worker["machine"] == _machine():
            return not _lives(worker["pid"], worker["started"])
        sign = trial.user_attrs.get(_BEAT)
        seen, since = self._watched.get(trial.number, (None, 0.0))
        if trial.number not in self._watched or seen != sign:
            self._watched[trial.number] = sign, time.monotonic()
            return False
        return time.monotonic() - since > _SILENT_BEATS * self._heartbeat

    def _repeat(self, trial: FrozenTrial, reason: str, *, counted: bool) -> None:
        """Queue a trial's repetition, then mark it as failed; see the module's first lines."""
        tried = int(trial.user_attrs.get(_RETRIES, 0))
        if not counted or tried < self._retries:
            if not any(t.user_attrs.get(_REPEATS) == trial.number for t in self.trials()):
                self.study.enqueue_trial(
                    trial.system_attrs.get("fixed_params", trial.params),
                    user_attrs={_REPEATS: trial.number, _RETRIES: tried + int(counted)},
                )
            self._attribute(trial.number, _REPLACED, True)
        else:
            reason = f"{reason}, {tried + 1} times"
        self._attribute(trial.number, _REASON, reason)
        self._tell(trial.number, TrialState.FAIL)

    def _trial(self, number: int) -> FrozenTrial:
        return next(t for t in self.trials() if t.number == number)

    def _attribute(self, number: int, name: str, value: Any) -> None:
        with contextlib.suppress(UpdateFinishedTrialError):
            storage = self.study._storage
            storage.set_trial_user_attr(self._trial(number)._trial_id, name, value)

    def _tell(self, number: int, state: TrialState, values: list[float] | None = None) -> None:
        """Tell the study, unless another has told it about this trial already."""
        with contextlib.suppress(UpdateFinishedTrialError):
            self.study.tell(number, values, state=state, skip_if_finished=True)


def reason(trial: FrozenTrial) -> str:
    """Why a trial failed; empty if it did not."""
    return str(trial.user_attrs.get(_REASON, ""))


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial is neither surplus nor replaced by its repetition."""
    return _SURPLUS not in trial.user_attrs and _REPLACED not in trial.user_attrs


# ---------------------------------------------------------------------- processes
def _me() -> dict[str, Any]:
    pid = os.getpid()
    return {
        "machine": _machine(),
        "pid": pid,
        "started": _started(pid),
        "host": socket.gethostname(),
    }


def _machine() -> str:
    """What tells one set of process numbers from another: this boot, this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> str | None:
    """When a process began, which tells it from a later one of the same number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def _lives(pid: int, started: str | None) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    if Path(f"/proc/{pid}/stat").exists():
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z" and started in (None, _started(pid))
    return True


def _same_process(worker: Any, pid: int) -> bool:
    return worker is not None and worker["pid"] == pid and worker["machine"] == _machine()
