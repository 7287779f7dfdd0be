"""Slots: n trials for n slots, whoever dies when."""

from __future__ import annotations

import contextlib
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import optuna
import pytest
from hypothesis import given, settings
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from retro_lightning.sweep import slots as module
from retro_lightning.sweep.slots import Slots, counts, reason


class World:
    """Workers that are only process numbers, which the test lets live and die."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, storage: Any = None, count: int = 5
    ) -> None:
        self.study = optuna.create_study(storage=storage)
        self.alive: set[int] = set()
        self.now = 0
        self.buried: list[int] = []
        self.count = count
        monkeypatch.setattr(module, "_me", lambda: {"machine": "m", "pid": self.now, "started": ""})
        monkeypatch.setattr(module, "_machine", lambda: "m")
        monkeypatch.setattr(module, "_lives", lambda pid, started: pid in self.alive)

    def slots(self, **options: Any) -> Slots:
        given: dict[str, Any] = {
            "count": self.count,
            "retries": 2,
            "heartbeat_seconds": 10.0,
            "on_buried": self.buried.append,
        }
        return Slots(self.study, contextlib.nullcontext, **{**given, **options})

    def claim(self, worker: int) -> optuna.Trial | None:
        self.alive.add(worker)
        self.now = worker
        trial = self.slots().claim()
        if trial is not None:
            trial.suggest_float("x", 0.0, 1.0)
        return trial


@pytest.fixture
def world(monkeypatch):
    return World(monkeypatch)


def test_there_are_as_many_trials_as_slots(world):
    slots = world.slots()
    for value in range(5):
        trial = world.claim(1)
        assert trial is not None
        slots.finish(trial, [float(value)])
    assert world.claim(1) is None
    assert slots.done()
    assert [slots.slot(t.number) for t in slots.trials()] == [0, 1, 2, 3, 4]


def test_what_another_runs_is_not_claimed_and_not_done(world):
    for worker in range(5):
        assert world.claim(worker) is not None
    assert world.claim(9) is None
    assert not world.slots().done()


def test_a_killed_workers_trial_is_tried_again_with_its_parameters(world):
    first = world.claim(1)
    world.alive.remove(1)
    again = world.claim(2)
    assert again is not None
    assert again.params == first.params
    assert world.buried == [first.number]
    slots = world.slots()
    assert slots.slot(again.number) == slots.slot(first.number) == 0
    assert reason(slots.trials()[0]) == "its worker was killed"
    assert not counts(slots.trials()[0])


def test_a_trial_that_kills_every_worker_is_given_up(world):
    numbers = []
    for worker in range(3):
        trial = world.claim(worker)
        numbers.append(trial.number)
        world.alive.remove(worker)
    following = world.claim(7)
    slots = world.slots()
    assert slots.slot(following.number) == 1
    assert reason(slots.trials()[numbers[-1]]) == "its worker was killed, 3 times"
    assert slots.settled()[0].number == numbers[-1]


def test_ctrl_c_frees_the_slot_and_counts_as_no_retry(world):
    slots = world.slots()
    for _ in range(4):
        trial = world.claim(1)
        assert slots.slot(trial.number) == 0
        slots.give_up(trial.number, "stopped by Ctrl-C")


def test_a_failure_of_its_own_is_final(world):
    trial = world.claim(1)
    world.slots().fail(trial.number, "the loss is nan")
    assert reason(world.slots().settled()[0]) == "the loss is nan"
    assert world.slots().slot(world.claim(1).number) == 1


def test_a_first_trial_that_was_fixed_keeps_its_parameters_when_killed_before_it_began(world):
    world.study.enqueue_trial({"x": 0.125})
    world.alive.add(1)
    world.now = 1
    world.slots().claim()  # dies before anything was suggested
    world.alive.remove(1)
    assert world.claim(2).params == {"x": 0.125}


def test_a_worker_that_died_while_burying_loses_and_doubles_nothing(world, monkeypatch):
    first = world.claim(1)
    world.alive.remove(1)
    with monkeypatch.context() as patch:  # killed after the repetition was queued
        patch.setattr(Slots, "_tell", lambda *args, **options: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            world.claim(2)
    world.alive.discard(2)
    again, other = world.claim(3), world.claim(4)
    slots = world.slots()
    assert slots.slot(again.number) == slots.slot(first.number)
    assert slots.slot(other.number) == 1


def test_a_second_repetition_is_surplus(world):
    first = world.claim(1)
    attrs = {"repeats": first.number, "retries": 1}
    world.study.enqueue_trial(first.params, user_attrs=attrs)  # two undertakers at once
    world.study.enqueue_trial(first.params, user_attrs=attrs)
    world.alive.remove(1)
    claimed = [world.claim(worker) for worker in (2, 3)]
    assert [world.slots().slot(t.number) for t in claimed] == [0, 1]


def test_a_repetition_of_one_that_was_only_slow_is_surplus(world):
    slow = world.claim(1)
    world.study.enqueue_trial(slow.params, user_attrs={"repeats": slow.number, "retries": 1})
    world.slots().finish(slow, [1.0])
    assert world.slots().slot(world.claim(2).number) == 1
    assert world.slots().settled()[0].values == [1.0]


def test_one_on_another_machine_is_dead_when_it_was_silent_for_long(world, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    trial = world.claim(1)
    monkeypatch.setattr(module, "_machine", lambda: "another")
    watcher = world.slots()
    for beat in range(3):
        assert not watcher._dead(watcher._trial(trial.number))
        clock[0] += 50.0
        trial.set_user_attr("beat", beat)
    assert not watcher._dead(watcher._trial(trial.number))
    clock[0] += 59.0
    assert not watcher._dead(watcher._trial(trial.number))
    clock[0] += 2.0  # 61 s since the last sign; 6 beats of 10 s
    assert watcher._dead(watcher._trial(trial.number))


def test_who_was_taken_for_dead_is_told(world):
    slots = world.slots(heartbeat_seconds=0.01)
    trial = world.claim(1)
    with slots.alive(trial) as lost:
        world.study.tell(trial.number, state=TrialState.FAIL)
        assert lost.wait(5.0)
    slots.finish(trial, [1.0])
    assert slots.trials()[0].state == TrialState.FAIL


def test_processes_of_this_machine_are_known():
    me = module._me()
    assert module._lives(me["pid"], me["started"])
    assert not module._lives(me["pid"], "another start")
    assert not module._lives(2**22 + 1, None)
    json.dumps(me)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), workers=st.integers(1, 4))
def test_whoever_dies_when_every_slot_is_settled_once(seed, workers):
    rng = random.Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        world = World(patch, count=6)
        busy: dict[int, optuna.Trial] = {}
        fresh = iter(range(100, 10_000))
        names = [next(fresh) for _ in range(workers)]
        for _ in range(400):
            if world.slots(retries=99).done():
                break
            place = rng.randrange(workers)
            worker = names[place]
            if worker not in busy:
                world.alive.add(worker)
                world.now = worker
                if (trial := world.slots(retries=99).claim()) is not None:
                    trial.suggest_float("x", 0.0, 1.0)
                    busy[worker] = trial
            elif rng.random() < 0.4:
                world.alive.discard(worker)
                del busy[worker]
                names[place] = next(fresh)
            else:
                world.slots().finish(busy.pop(worker), [rng.random()])
        slots = world.slots(retries=99)
        assert slots.done()
        counting = [t for t in slots.trials() if counts(t) and t.state == TrialState.COMPLETE]
        by_slot = Counter(slots.slot(t.number) for t in counting)
        assert by_slot == dict.fromkeys(range(6), 1)


def test_a_journal_serves_as_well(monkeypatch, tmp_path: Path):
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(tmp_path / "j.log")))
    world = World(monkeypatch, storage, count=2)
    first = world.claim(1)
    world.alive.remove(1)
    again = world.claim(2)
    assert again.params == first.params
    world.slots().finish(again, [0.5])
    world.slots().finish(world.claim(2), [0.25])
    assert world.slots().done()
