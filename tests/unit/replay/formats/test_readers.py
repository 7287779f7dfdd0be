"""Formats in: what small files of each, made by this project, become."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retro_lightning.environments.base import split_of
from retro_lightning.replay.formats import exporting
from retro_lightning.replay.formats.items import Attempt, Check, Item, Options, Reject, Remark
from retro_lightning.replay.formats.readers import READERS
from retro_lightning.replay.formats.source import Source
from retro_lightning.replay.records import content_hash, encode
from retro_lightning.trajectory import Trajectory
from tests.support import random_trajectory

LOGS = Path(__file__).parents[3] / "data" / "logs"


def items(format_: str, file: Path | str, options: Options = Options()) -> list[Item]:  # noqa: B008
    return list(READERS[format_](Source(LOGS / file), options))


def trajectories(
    format_: str,
    file: Path | str,
    options: Options = Options(),  # noqa: B008
) -> list[Trajectory]:
    found = items(format_, file, options)
    assert [item for item in found if isinstance(item, Reject)] == []
    return [item.trajectory for item in found if isinstance(item, Attempt)]


@pytest.mark.parametrize(
    ("format_", "file"),
    [
        ("tau_bench", "tau_bench_garden.json"),
        ("reflexion_hotpotqa", "hotpotqa_react_trials.txt"),
        ("reflexion_alfworld", "env_results_trial_1.json"),
        ("chat", "chat.jsonl"),
        ("atif", "atif.json"),
    ],
)
def test_what_every_import_has_in_common(format_: str, file: str) -> None:
    for made in trajectories(format_, file):
        hash_ = made.task.task_id.removeprefix(f"{made.task.family}:")
        assert made.task.split == split_of(hash_)
        assert made.source == f"import:{format_}"
        assert made.policy_version is None
        assert [s.log_prob for s in made.steps] == [None] * made.length
        assert [s.valid_actions for s in made.steps] == [None] * made.length
        assert [s.generation for s in made.steps] == [None] * made.length
        assert made.run
        assert made.behaviour_id
    options = Options(behaviour_id="me", family="mine", run="today")
    for made in trajectories(format_, file, options):
        assert (made.behaviour_id, made.task.family, made.run) == ("me", "mine", "today")
        assert made.task.task_id.startswith("mine:")


def test_tau_bench() -> None:
    fern, cut, cactus, fault = trajectories("tau_bench", "tau_bench_garden.json")
    assert fern.task.instruction.endswith("Never water the cactus.")
    assert "insist" not in cactus.task.instruction + cactus.steps[0].observation  # the script
    assert fern.task.family == "tau_bench/garden"
    assert fern.task == cut.task
    assert fern.task.task_id != cactus.task.task_id
    assert [s.action for s in fern.steps] == [
        'look_at({"plant": "fern"})',
        'water({"plant": "fern", "ml": 200})',
        "The fern has been watered.",
    ]
    assert [s.thought for s in fern.steps] == [None, "It is dry: I water it.", None]
    assert [s.observation for s in fern.steps] == ["My fern looks sad.", '{"soil": "dry"}', "done"]
    assert [s.reward for s in fern.steps] == [0.0, 0.0, 1.0]
    assert (fern.success, fern.terminated, fern.final_observation) == (
        True,
        True,
        "Thanks! ###STOP###",
    )
    assert (cut.length, cut.truncation, cut.attempt) == (30, "task_limit", 1)
    assert (cactus.success, cactus.truncation) == (False, None)
    assert (fault.truncation, fault.fault) == ("fault", "the simulator ran out of money")


def test_reflexion_hotpotqa() -> None:
    found = items("reflexion_hotpotqa", "hotpotqa_react_trials.txt")
    made = [item.trajectory for item in found if isinstance(item, Attempt)]
    assert [(t.attempt, t.success, t.truncation) for t in made] == [
        (0, True, None),
        (0, False, None),  # written out twice, counted once
        (0, False, "task_limit"),
        (1, True, None),
        (1, True, None),
        (1, False, "task_limit"),
    ]
    river, sibyl, _, again, retry, _ = made
    assert river.steps[0].thought == "I need to search Basel and find its river."
    assert river.steps[0].action == "Search[Basel]"
    assert river.steps[1].observation.startswith("Basel is a city in Switzerland.\nIt lies where")
    assert [s.reward for s in river.steps] == [0.0, 1.0]
    assert river.final_observation == "Answer is CORRECT"
    assert "Rhine" not in river.task.instruction + river.steps[0].observation
    assert sibyl.task == retry.task
    assert sibyl.task.instruction == "Who painted the ceiling that the Delphic Sibyl is on?"
    assert (sibyl.length, sibyl.total_return, sibyl.reflections) == (6, 0.0, ())
    assert retry.reflections == (
        "I looked for the Sibyl, not for the ceiling.\n  Next time I look for the chapel.",
        "I guessed too early.",
    )
    assert content_hash(again) == content_hash(river)
    assert [(c.told, c.found) for c in found if isinstance(c, Check)] == [
        ("1/1/1", "1/1/1"),
        ("2/0/0", "2/0/1"),
    ]
    remarks = [remark.text for remark in found if isinstance(remark, Remark)]
    assert len(remarks) == 3
    lines = (LOGS / "hotpotqa_react_trials.txt").read_text().split("\n")
    again_at = [n for n, line in enumerate(lines, 1) if "Delphic" in line]
    assert f"the attempt of line {again_at[0]} stands here again" in remarks[0]
    assert "counts 2 attempts, 0 of them halted, but 1 halted ones" in remarks[1]
    assert "1 of 2 correct attempts repeat the trial before" in remarks[2]


def test_a_log_of_hotpotqa_that_was_cut_is_told_in_one_remark(tmp_path: Path) -> None:
    text = (LOGS / "hotpotqa_react_trials.txt").read_text()
    second = text.index("BEGIN TRIAL 2")
    end = text.index("Correct answer: ", second)  # of its first attempt; two more follow
    for cut in (text[: end + 30], text[:end]):
        (tmp_path / "cut.txt").write_text(cut)
        found = items("reflexion_hotpotqa", tmp_path / "cut.txt")
        told = [item.text for item in found if isinstance(item, Remark)]
        read = sum(isinstance(item, Attempt) for item in found) - 3
        (remark,) = (text for text in told if "stands here again" not in text and "rep" not in text)
        assert f"trial 2: the summary counts 2 attempts, but {read} can be read" in remark


def test_reflexion_alfworld() -> None:
    first = trajectories("reflexion_alfworld", "env_results_trial_0.json")
    second = trajectories("reflexion_alfworld", "env_results_trial_1.json")
    assert [t.outcome_return for t in (*first, *second)] == [1.0, 0.0, 0.0, 1.0, 1.0, 0.0]
    assert [t.attempt for t in (*first, *second)] == [0, 0, 0, 1, 1, 1]
    assert [t.task for t in first] == [t.task for t in second]
    assert len({t.task.task_id for t in first}) == 3
    assert [t.reflections for t in first] == [(), (), ()]  # made after the first attempt
    assert [t.reflections for t in second] == [
        (),
        ("I should open the drawer first.",),
        ("I forgot the lamp.",),  # what is on the desk was found out afterwards
    ]
    assert {t.run for t in (*first, *second)} == {"env_results"}
    assert len({t.trajectory_id for t in (*first, *second)}) == 6
    *_, remark = items("reflexion_alfworld", "env_results_trial_1.json")
    assert "reflections in memory: 3, of which 2 came before" in remark.text


def test_the_trial_of_alfworld_stands_in_the_file_name(tmp_path: Path) -> None:
    shutil.copy(LOGS / "env_results_trial_0.json", tmp_path / "results.json")
    (reject,) = items("reflexion_alfworld", tmp_path / "results.json")
    assert "does not end in trial_<number>" in reject.reason


def test_chat() -> None:
    whole, by_message, sums = trajectories("chat", "chat.jsonl")
    assert [s.reward for s in whole.steps] == [0.0, 0.0, 1.0]
    assert [s.reward for s in by_message.steps] == [0.5, 0.5, 0.5]
    assert whole.task == by_message.task
    assert (whole.attempt, by_message.attempt, sums.attempt) == (0, 1, 3)
    assert (whole.behaviour_id, whole.success, by_message.success) == ("gardener-2", True, True)
    assert (sums.task.instruction, sums.steps[0].observation) == ("2 + 2?", "")
    assert (sums.steps[0].thought, sums.steps[0].action) == ("Easy.", "5")
    assert (sums.reflections, sums.truncation) == (("I once said 3.",), "context_full")


def test_atif() -> None:
    (made,) = trajectories("atif", "atif.json")
    assert made.task.instruction == "You look after plants."
    assert [s.observation for s in made.steps] == ["How is the fern?", "dry"]
    assert [s.action for s in made.steps] == ['look_at({"plant": "fern"})', "It is dry."]
    assert made.steps[0].thought == "I need to look.\nLet me see."
    assert [s.reward for s in made.steps] == [0.0, 0.25]
    assert (made.behaviour_id, made.run) == ("gardener 1.0 tiny", "s-17")


NOON = 1_764_072_000.0  # 2025-11-25 12:00:00 UTC: 20,417 days and 12 hours after 1970 began
TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
STAMPED = [
    {"source": "user", "message": "hi", "timestamp": "2025-11-25T11:58:00Z"},
    {"source": "agent", "message": "hello", "timestamp": "2025-11-25T12:00:00Z"},
]


@pytest.mark.parametrize(
    ("format_", "record"),
    [
        ("chat", {"messages": TALK, "reward": 1, "created": NOON}),
        ("chat", {"messages": TALK, "reward": 1, "timestamp": "2025-11-25T13:00:00+01:00"}),
        (
            "atif",
            {
                "schema_version": "ATIF-v1.4",
                "agent": {"name": "me"},
                "steps": STAMPED,
                "extra": {"reward": 1},
            },
        ),
        ("mapping", {"q": "hi", "a": "hello", "r": 1, "when": str(NOON)}),
        ("mapping", {"q": "hi", "a": "hello", "r": 1, "when": "2025-11-25 12:00"}),
    ],
)
def test_a_log_says_when_it_was_recorded(tmp_path: Path, format_: str, record: dict) -> None:
    file, mapping = tmp_path / "log.jsonl", tmp_path / "mapping.yaml"
    file.write_text(json.dumps(record), encoding="utf-8")
    mapping.write_text("{task: q, action: a, reward: r, recorded_at: when}", encoding="utf-8")
    options = Options(mapping=mapping if format_ == "mapping" else None)
    (found,) = READERS[format_](Source(file), options)
    assert isinstance(found, Attempt)
    assert found.trajectory.recorded_at == NOON
    if format_ == "chat":
        assert exporting.chat_record(found.trajectory)["created"] == NOON


def test_mapping_of_a_csv() -> None:
    options = Options(mapping=LOGS / "steps.yaml")
    two, one = trajectories("mapping", "steps.csv", options)
    assert [s.action for s in two.steps] == ["push", "pull"]
    assert [s.thought for s in two.steps] == [None, "pull then"]
    assert [s.reward for s in two.steps] == [0.0, 1.0]
    assert two.steps[0].observation == "a door, closed"
    assert (two.success, one.success) == (True, False)
    assert two.task == one.task
    assert (two.attempt, one.attempt, two.task.family) == (0, 1, "steps")


@pytest.mark.parametrize("ending", ["json", "jsonl", "parquet"])
def test_mapping_of_nested_records(tmp_path: Path, ending: str) -> None:
    records = [
        {
            "q": {"text": "open it"},
            "turns": [{"o": "door", "a": "pull", "v": ["pull", "push"]}, {"o": "x", "a": "go"}],
            "score": 2,
            "who": "me",
        },
        {"q": {"text": "open it"}, "turns": [{"o": "door", "a": "push"}], "score": 0, "who": "me"},
    ]
    file = tmp_path / f"log.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(records), file)
    elif ending == "json":
        file.write_text(json.dumps(records, indent=2))
    else:
        file.write_text("\n".join(map(json.dumps, records)))
    spec = tmp_path / "map.yaml"
    spec.write_text("task: q.text\nsteps: turns\nobservation: o\naction: a\nreturn: score\n")
    good, bad = trajectories("mapping", file, Options(mapping=spec))
    assert [(s.observation, s.action, s.reward) for s in good.steps] == [
        ("door", "pull", 0.0),
        ("x", "go", 2.0),
    ]
    assert (good.success, bad.success) == (True, False)


def test_a_mapping_of_what_some_records_lack(tmp_path: Path) -> None:
    keys = ("observation", "thought", "final_observation", "reflections", "recorded_at")
    record = {"q": "hi", "a": "go", "r": 1}
    full = {**record, "observation": "a door", "thought": "hm", "final_observation": "end"}
    file, spec = tmp_path / "log.jsonl", tmp_path / "map.yaml"
    file.write_text("\n".join(map(json.dumps, [record, full])))
    spec.write_text("\n".join(["task: q", "action: a", "reward: r", *(f"{k}: {k}" for k in keys)]))
    found = items("mapping", file, Options(mapping=spec))
    one, other = (item.trajectory for item in found if isinstance(item, Attempt))
    assert (one.steps[0].observation, one.steps[0].thought, one.final_observation) == ("", None, "")
    assert (other.steps[0].thought, other.final_observation) == ("hm", "end")
    blank = [item.text.split(",")[0] for item in found if isinstance(item, Remark)]
    assert blank == ["no record has 'recorded_at'", "no record has 'reflections'"]


@pytest.mark.parametrize("action", ["", "  "])
def test_a_blank_cell_is_no_action(tmp_path: Path, action: str) -> None:
    file, spec = tmp_path / "log.csv", tmp_path / "map.yaml"
    file.write_text(f"q,a,r\nhi,go,1\nhi,{action},1\n")
    spec.write_text("{task: q, action: a, reward: r}")
    good, bad = items("mapping", file, Options(mapping=spec))
    assert isinstance(good, Attempt)
    assert isinstance(bad, Reject)
    assert (bad.line, bad.reason) == (3, "a of step 0 is empty: there is no action")


def test_tables_of_our_own_come_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    made = [random_trajectory(rng, number) for number in range(150)]
    table = pa.Table.from_batches([encode(made)])
    pq.write_table(table, tmp_path / "own.parquet")
    with pa.ipc.new_stream(str(tmp_path / "own.arrow"), table.schema) as writer:
        writer.write_table(table)
    polars.read_parquet(tmp_path / "own.parquet").write_parquet(tmp_path / "polars.parquet")
    for name in ("own.parquet", "own.arrow", "polars.parquet"):
        found = trajectories("parquet", tmp_path / name)
        assert {t.source for t in found} == {"import:parquet"}
        ours = [encode([t]).select(["steps", "task_id", "total_return"]) for t in made]
        theirs = [encode([t]).select(["steps", "task_id", "total_return"]) for t in found]
        assert ours == theirs


def test_tables_of_messages_are_conversations(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    table = pa.Table.from_pylist([{"messages": talk, "reward": 1.0}, {"messages": talk}])
    pq.write_table(table, tmp_path / "talk.parquet")
    good, bad = items("hf", tmp_path / "talk.parquet")
    assert isinstance(good, Attempt)
    assert good.trajectory.steps[0].action == "hello"
    assert isinstance(bad, Reject)
    assert (bad.line, "'reward' is missing" in bad.reason) == (2, True)
