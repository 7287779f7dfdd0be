"""A sweep over the dummy module: fits of milliseconds through the whole command."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]


@pytest.fixture
def sweep_file(workplace: Path, dummy_commands: None) -> Path:
    """A sweep of the dummy job, in an empty working directory."""
    shutil.copy(ROOT / "tests" / "dummy.yaml", "dummy.yaml")
    path = workplace / "sweep.yaml"
    path.write_text(yaml.safe_dump(definition(), sort_keys=False))
    return path


def definition(**changes: Any) -> dict[str, Any]:
    """What the sweep file says; metrics are the dummy's, which are always the same."""
    said = {
        "study": "dummies",
        "base": ["dummy.yaml"],
        "trials": 3,
        "seeds": [1, 2],
        "space": {
            "model.part": {
                "choices": {
                    "strong": {"class_path": "tests.dummies.Coefficient"},
                    "none": None,
                },
            },
            "model.part.init_args.coefficient": {
                "low": 0.1,
                "high": 1.0,
                "when": {"model.part": "strong"},
            },
            "model.gamma": {"low": 0.5, "high": 1.0},
        },
        "confirm": {"top": 0},
        "heartbeat_seconds": 0.5,
    }
    return {**said, **changes}
