"""Groups come whole into one batch, and as often as the curriculum wants."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retro_lightning.curriculum.groups import group_codes, sample_groups


def test_a_group_is_a_combination_of_all_columns() -> None:
    task, version, behaviour = np.array([0, 0, 0, 1, 0]), np.array([7, 7, 8, 7, 7]), np.zeros(5)
    codes = group_codes([task, version, behaviour.astype(np.int64)])
    assert codes[0] == codes[1] == codes[4]
    assert len({codes[0], codes[2], codes[3]}) == 3


@settings(max_examples=60)
@given(st.integers(1, 30), st.integers(1, 4), st.integers(1, 12), st.integers(0, 10**6))
def test_groups_are_whole_and_within_one_batch(
    n: int, batches: int, batch_size: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    group, learnable = rng.integers(0, 8, size=n), rng.random(n) < 0.8
    learnable[0] = True
    p = np.where(learnable, rng.random(n) + 0.01, 0.0)
    draw = sample_groups(p / p.sum(), group, learnable, batches, batch_size, group * 0, rng)
    assert len(draw.starts) == batches + 1
    assert draw.starts[-1] == len(draw.rows) == len(draw.groups)
    assert abs(draw.p_N.sum() - 1.0) < 1e-12
    for first, end in zip(draw.starts[:-1], draw.starts[1:], strict=True):
        for number in np.unique(draw.groups[first:end]):
            members = draw.rows[first:end][draw.groups[first:end] == number]
            code = group[members[0]]
            assert sorted(members) == np.flatnonzero(learnable & (group == code)).tolist()


def test_groups_are_drawn_by_the_mean_of_their_members() -> None:
    group, p = np.array([0, 0, 0, 1, 2, 2]), np.array([0.1, 0.2, 0.3, 0.2, 0.1, 0.1])
    everything = np.ones(6, dtype=bool)
    counts, total = np.zeros(6), 0
    rng = np.random.default_rng(0)
    for _ in range(3000):
        draw = sample_groups(p, group, everything, 1, 4, np.zeros(6, dtype=np.int64), rng)
        counts += np.bincount(draw.rows, minlength=6)
        total += len(draw.rows)
    # Means 0.2, 0.2 and 0.1 give the groups 2/5, 2/5 and 1/5; a draw has 2/5*3 + 2/5*1 + 1/5*2 = 2
    # rows, so 2 groups make a batch of 4 and a row of group 0 or 1 is 1 row in 5, of group 2 one in
    # 10. Five standard errors of a share from 12,000 rows in groups of three: below 0.03.
    expected = [0.2, 0.2, 0.2, 0.2, 0.1, 0.1]
    np.testing.assert_allclose(draw.p_N, expected)
    np.testing.assert_allclose(counts / total, expected, atol=0.03)
    assert total / 3000 == pytest.approx(4.0, abs=0.1)
