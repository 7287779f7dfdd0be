"""The ``rollout`` command: who acts, which tasks, what is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny
from retro_lightning.cli import rollout as room
from retro_lightning.cli.main import main
from retro_lightning.replay.store import ReplayStore
from retro_lightning.trajectory import Task, Trajectory
from tests.support import CorridorEnv

CONFIG = str(Path(__file__).parents[2] / "corridor.yaml")
EXPERT = "retro_lightning.rollout.behaviours.Expert"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def rollout(*args: str) -> int:
    return main(["rollout", "--config", CONFIG, "--store", "store", *args])


def stored() -> list[Trajectory]:
    store = ReplayStore("store")
    return store.read(range(len(store)))


def test_a_scripted_behaviour_fills_a_store(capsys):
    assert rollout("--behaviour", EXPERT, "--episodes", "5", "--split", "val") == 0
    episodes = stored()
    # Families in turn: short, long, short, long, short.
    assert [t.task.family.split("/")[1] for t in episodes] == ["short", "long"] * 2 + ["short"]
    assert all(t.success and t.task.split == "val" for t in episodes)
    assert {t.run for t in episodes} == {"corridor"}
    out = capsys.readouterr().out
    assert "5 trajectories appended to store" in out
    assert "corridor/short" in out


def test_a_second_call_adds_further_attempts():
    args = ("--behaviour", EXPERT, "--episodes", "12", "--split", "val")
    assert rollout(*args) == rollout(*args) == 0
    episodes = stored()
    # 6 tasks: 12 episodes are two attempts at each; the second call goes on with the third.
    assert sorted(t.attempt for t in episodes) == [0] * 6 + [1] * 6 + [2] * 6 + [3] * 6
    assert len({t.trajectory_id for t in episodes}) == 24


def test_a_policy_fills_a_store():
    tiny.policy().save("policy")
    args = ("--policy", "policy", "--episodes", "4", "--record_distribution")
    assert rollout(*args) == 0
    steps = [step for t in stored() for step in t.steps]
    assert all(step.log_prob is not None and step.log_probs is not None for step in steps)
    assert {t.source for t in stored()} == {"rollout"}


def test_the_first_fault_is_told(capsys):
    short = "--data.environments.corridor/short.fault_at"
    assert rollout("--behaviour", EXPERT, "--episodes", "4", short, "0") == 0
    faults = [t.fault for t in stored() if t.fault is not None]
    assert len(faults) == 2
    out = " ".join(capsys.readouterr().out.split())
    assert f"first fault: {faults[0]}" in out
    assert faults[1] not in out


def test_where_nothing_faults_no_fault_is_told(capsys):
    assert rollout("--behaviour", EXPERT, "--episodes", "2") == 0
    assert "first fault" not in capsys.readouterr().out


def test_what_was_collected_before_ctrl_c_is_kept(monkeypatch):
    make = room.run_behaviour

    def interrupted(behaviour, task, env, *, attempt, **rest):
        if attempt == 1:
            raise KeyboardInterrupt
        return make(behaviour, task, env, attempt=attempt, **rest)

    monkeypatch.setattr(room, "run_behaviour", interrupted)
    assert rollout("--behaviour", EXPERT, "--episodes", "20", "--split", "val") == 130
    assert len(stored()) == 6


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ([], "who should act?"),
        (["--policy", ".", "--behaviour", EXPERT], "who should act?"),
        (["--behaviour", EXPERT, "--episodes", "0"], "--episodes is 0"),
        (["--policy", "nowhere"], "nowhere"),
        (["--behaviour", EXPERT, "--split", "vall"], "--split"),
    ],
)
def test_bad_input_is_one_sentence(args, complaint, capsys):
    assert rollout(*args) == 2
    err = capsys.readouterr().err
    assert complaint in err
    assert err.count("\n") == 1


def test_a_store_is_asked_for(capsys):
    assert main(["rollout", "--config", CONFIG, "--behaviour", EXPERT]) == 2
    assert "store is missing" in capsys.readouterr().err


def test_jobs_go_round_families_of_different_size(tmp_path):
    def task(family: str, number: int) -> Task:
        return Task(
            task_id=f"{family}:{number}", family=family, instruction="", seed=number, split="train"
        )

    tasks = {"a": [task("a", 0)], "b": [task("b", 0), task("b", 1)]}
    jobs = room.next_jobs(tasks, 5, ReplayStore(tmp_path / "store", create=True))
    assert [(job.task.task_id, job.attempt) for job in jobs] == [
        ("a:0", 0),
        ("b:0", 0),
        ("b:1", 0),
        ("a:0", 1),
        ("b:0", 1),
    ]


def test_environments_are_closed():
    made: list[CorridorEnv] = []

    def make() -> CorridorEnv:
        made.append(CorridorEnv())
        return made[-1]

    from retro_lightning.rollout.behaviours import RandomWalker

    assert list(room._scripted(RandomWalker(), {"corridor": make}, [], "run", 0)) == []
    assert [env.closed for env in made] == [True]
