"""Every notebook runs from top to bottom and is stored without its outputs."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

QUICK = "read_a_trajectory"
"""The one that runs in the default tests; the slow ones run them all."""

NOTEBOOKS = sorted((Path(__file__).parents[3] / "notebooks").glob("*.ipynb"))


def code_cells(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_there_are_notebooks():
    assert {path.stem for path in NOTEBOOKS} == {
        "read_a_trajectory",
        "watch_the_curriculum",
        "compare_baselines",
        "read_a_sweep",
        "bring_your_own_environment",
        "train_from_your_logs",
    }


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped(path):
    for cell in code_cells(path):
        assert (cell["outputs"], cell["execution_count"]) == ([], None)


RUN = [
    pytest.param(path, marks=[] if path.stem == QUICK else pytest.mark.slow, id=path.stem)
    for path in NOTEBOOKS
]


@pytest.mark.parametrize("path", RUN)
def test_a_notebook_runs(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(code_cells(path)):
        exec(compile("".join(cell["source"]), f"{path.name}, code cell {number}", "exec"), names)
    assert capsys.readouterr().out
    figures = [value for value in names.values() if isinstance(value, Figure)]
    assert figures
    for number, figure in enumerate(figures):
        figure.savefig(tmp_path / f"{number}.png")
