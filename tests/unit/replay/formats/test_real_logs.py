"""Real logs: each log's own totals come out exactly, or the import report explains the difference.

They are not part of the project: these tests are skipped where ``../shared/data`` is absent.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from retro_lightning.replay.formats.importing import FileReport, import_files
from retro_lightning.replay.formats.items import Options
from retro_lightning.replay.formats.readers import READERS
from retro_lightning.replay.statistics import statistics
from retro_lightning.replay.store import ReplayStore

ROOT = Path(__file__).parents[4]
DATA = ROOT.parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"real logs: there is no folder {DATA}")


def imported(tmp_path: Path, format_: str, *files: str) -> tuple[dict, list[FileReport]]:
    store = ReplayStore(tmp_path / "store", create=True)
    report = import_files(
        store,
        [DATA / file for file in files],
        format_,
        READERS[format_],
        Options(),
        rejects=tmp_path / "rejects.jsonl",
        max_errors=0,
    )
    assert not (tmp_path / "rejects.jsonl").exists()
    return statistics(store.index), report.files


def test_tau_bench(tmp_path: Path) -> None:
    stats, _ = imported(tmp_path, "tau_bench", "tau_bench/airline_gpt-4o_tasks_0-34.json.gz")
    assert stats["trajectories"] == 140
    assert round(stats["mean_return"], 3) == 0.307
    assert [t["trajectories"] for t in stats["by_attempt"].values()] == [35] * 4
    assert list(stats["by_family"]) == ["tau_bench/airline"]


def test_hotpotqa_without_reflection(tmp_path: Path) -> None:
    name = "react_base_100_questions_5_trials"
    stats, (report,) = imported(tmp_path, "reflexion_hotpotqa", f"hotpotqa/{name}.txt")
    counts = [tuple(table.values()) for table in stats["hotpotqa"][name].values()]
    # The third summary says 9 halted and adds up to 99; ten are written out (see below).
    assert counts == [(34, 56, 10), (34, 57, 9), (34, 56, 10), (34, 57, 9), (34, 56, 10)]
    assert [check["told"] for check in report.checks] == [
        *("34/56/10", "34/57/9", "34/56/9", "34/57/9", "34/56/10")
    ]
    differing = [check["line"] for check in report.checks if check["told"] != check["found"]]
    (explained,) = [r for r in report.remarks if "the summary counts" in r["text"]]
    assert differing == [explained["line"]] == [3275]
    assert "99 attempts, 9 of them halted, but 10" in explained["text"]
    twice = [r for r in report.remarks if "stands here again" in r["text"]]
    assert len(twice) == 3 + 3 + 2 + 2 + 2  # halted ones that answered wrongly at the last step


def test_hotpotqa_with_reflection(tmp_path: Path) -> None:
    name = "react_reflexion_100_questions_5_trials"
    stats, (report,) = imported(tmp_path, "reflexion_hotpotqa", f"hotpotqa/{name}.txt")
    counts = [tuple(table.values()) for table in stats["hotpotqa"][name].values()]
    assert counts == [(32, 51, 17), (42, 43, 14), (48, 41, 11), (50, 39, 11), (51, 35, 13)]
    assert all(check["told"] == check["found"] for check in report.checks)
    missing = [r["text"][:7] for r in report.remarks if "has no attempt at" in r["text"]]
    assert missing == ["trial 2", "trial 5"]  # the trials whose summaries add up to 99
    told = [len(t.reflections) for t in ReplayStore(tmp_path / "store").read(range(498))]
    assert (told[:100], sum(told) > 266) == ([0] * 100, True)


def test_alfworld(tmp_path: Path) -> None:
    files = [f"alfworld/reflexion_env_results_trial_{n}.json" for n in range(6)]
    stats, reports = imported(tmp_path, "reflexion_alfworld", *files)
    solved = [table["successes"] for table in stats["by_attempt"].values()]
    assert solved == [84, 103, 111, 113, 117, 118]
    assert [table["trajectories"] for table in stats["by_attempt"].values()] == [134] * 6
    assert stats["outcome_records"] == 804
    assert stats["mean_length"] is None
    memories = [int(report.remarks[-1]["text"].split()[3].rstrip(",")) for report in reports]
    assert memories == [50, 81, 104, 125, 142, 158]


def test_both_hotpotqa_logs_try_the_same_tasks(tmp_path: Path) -> None:
    names = ("react_base", "react_reflexion")
    files = [f"hotpotqa/{name}_100_questions_5_trials.txt" for name in names]
    imported(tmp_path, "reflexion_hotpotqa", *files)
    assert len(ReplayStore(tmp_path / "store").index.task_ids) == 100
