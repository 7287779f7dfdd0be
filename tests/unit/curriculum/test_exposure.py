"""The exposure ledger against a counter."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from retro_lightning.curriculum.exposure import ExposureLedger, by_code


@given(st.lists(st.lists(st.integers(0, 20), max_size=9), max_size=6))
def test_counts_what_was_added_and_survives_a_checkpoint(rounds: list[list[int]]) -> None:
    ledger = ExposureLedger()
    for rows in rounds:
        ledger.add(np.array(rows, dtype=np.int64))
        again = ExposureLedger()
        again.load_state_dict(json.loads(json.dumps(ledger.state_dict())))
        ledger = again
    expected = Counter(row for rows in rounds for row in rows)
    nothing = np.zeros(0, dtype=np.int64)
    assert ledger.with_rows(nothing, 21).tolist() == [expected[row] for row in range(21)]
    looked = ledger.with_rows(np.array([3, 3]), 21)  # looking adds nothing
    assert looked[3] == expected[3] + 2
    assert ledger.with_rows(nothing, 21)[3] == expected[3]


def test_by_task() -> None:
    assert by_code(np.array([1, 0, 4, 2]), np.array([0, 2, 0, 2])).tolist() == [5, 0, 2]
