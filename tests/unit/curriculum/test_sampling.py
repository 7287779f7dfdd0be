"""Sampling: unbiased, even, and fair to strata."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retro_lightning.curriculum.sampling import correction, reserve, sample_batches


@st.composite
def distributions(draw: st.DrawFn) -> npt.NDArray[np.float64]:
    masses = draw(st.lists(st.sampled_from([0.0, 0.1, 1.0, 7.0]), min_size=1, max_size=12))
    masses[draw(st.integers(0, len(masses) - 1))] = 1.0
    return np.array(masses) / sum(masses)


@given(distributions(), st.integers(1, 8), st.integers(1, 9), st.integers(0, 10**6), st.data())
def test_batches_are_even_and_fair(
    p: npt.NDArray[np.float64], batches: int, batch_size: int, seed: int, data: st.DataObject
) -> None:
    strata = np.array([data.draw(st.integers(0, 2)) for _ in p])
    drawn = sample_batches(p, batches, batch_size, strata, np.random.default_rng(seed))
    rows = drawn.rows
    assert np.array_equal(drawn.p, p[rows])
    assert rows.shape == (batches, batch_size)
    counts = np.bincount(rows.ravel(), minlength=len(p))
    assert (np.abs(counts - batches * batch_size * p) < 1 + 1e-9).all()
    for stratum in range(3):
        mass = p[strata == stratum].sum()
        for batch in rows:
            got = (strata[batch] == stratum).sum()
            assert abs(got - batch_size * mass) < 2 + 1e-9
    for row in np.flatnonzero((counts > 0) & (counts <= batches)):
        # At most two of a row fall into one batch: where its draws span two deals.
        assert (rows == row).sum(axis=1).max() <= 2


def test_every_batch_has_its_exact_part_of_a_stratum_where_that_is_whole() -> None:
    strata = np.arange(100) % 2
    p = np.where(strata == 1, 0.75, 0.25) / 50
    rows = sample_batches(p, 10, 20, strata, np.random.default_rng(0)).rows
    # 0.75 of 20 = 15 in every batch; independent draws would scatter by sqrt(20 / 16 * 3) = 1.9.
    assert (strata[rows] == 1).sum(axis=1).tolist() == [15] * 10


def test_batches_are_unbiased_in_every_place() -> None:
    p, strata = np.array([0.1, 0.4, 0.2, 0.3]), np.array([0, 1, 0, 1])
    rng = np.random.default_rng(0)
    drawn = np.stack([sample_batches(p, 3, 5, strata, rng).rows for _ in range(4000)])
    # Frequency of each row in each place; five standard errors of a coin: 5 * 0.5 / sqrt(4000).
    for row in range(4):
        np.testing.assert_allclose((drawn == row).mean(axis=0), p[row], atol=0.04)


def test_bad_probabilities_are_refused() -> None:
    rng = np.random.default_rng(0)
    for p in ([0.5, 0.4], [1.5, -0.5], [np.nan, 1.0], []):
        with pytest.raises(ValueError, match="sampling probabilities"):
            sample_batches(np.array(p), 3, 2, np.zeros(len(p), dtype=int), rng)


@given(distributions(), st.floats(0, 1), st.data())
def test_reserve_gives_the_group_its_share(
    p: npt.NDArray[np.float64], share: float, data: st.DataObject
) -> None:
    group = np.array([data.draw(st.booleans()) for _ in p])
    result = reserve(p, group, share)
    assert result.sum() == pytest.approx(1.0)
    if not group.any():
        np.testing.assert_array_equal(result, p)
        return
    outside = p[~group].sum()
    assert result[group].sum() == pytest.approx(share if outside > 0 else 1.0)
    assert np.ptp(result[group]) < 1e-12
    if outside > 0:
        np.testing.assert_allclose(result[~group], (1 - share) * p[~group] / outside, atol=1e-12)


def test_an_impossible_share_is_refused() -> None:
    with pytest.raises(ValueError, match=r"share is 1\.5"):
        reserve(np.array([1.0]), np.array([True]), 1.5)


def test_full_correction_undoes_the_sampling() -> None:
    p, values = np.array([0.5, 0.0, 0.2, 0.3]), np.array([1.0, 100.0, 3.0, 5.0])
    rows = np.array([0, 2, 3])
    weights = correction(p, rows, 1.0)
    # E_p[w v] = sum p / (3 p) v = the mean over the three rows that can be drawn = 3.
    assert (p[rows] * weights * values[rows]).sum() == pytest.approx(3.0)
    np.testing.assert_array_equal(correction(p, rows, 0.0), np.ones(3))
    # (3 * 0.5)^-0.5
    assert correction(p, np.array([0]), 0.5)[0] == pytest.approx(1.5**-0.5)
