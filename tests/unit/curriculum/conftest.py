"""Made-up store columns for the tests of the curriculum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest


@dataclass
class Store:
    """Columns of a made-up store."""

    returns: npt.NDArray[np.float64]
    success: npt.NDArray[np.bool_]
    length: npt.NDArray[np.int32]
    task_id: npt.NDArray[np.int32]
    family: npt.NDArray[np.int32]
    policy_version: npt.NDArray[np.int64]
    families: tuple[str, ...]


def random_store(seed: int, n: int, families: int = 3) -> tuple[Store, npt.NDArray[np.bool_]]:
    """Columns and which rows are learnable; every family has at least one that is."""
    rng = np.random.default_rng(seed)
    family = rng.integers(families, size=n)
    family[:families] = np.arange(min(families, n))
    success = rng.random(n) < 0.1 + 0.3 * family  # families differ in difficulty
    store = Store(
        returns=np.where(success, 1.0, 0.0) * rng.uniform(0.5, 1.0, n),
        success=success,
        length=rng.integers(1, 20, size=n).astype(np.int32),
        task_id=(family * 5 + rng.integers(5, size=n)).astype(np.int32),
        family=family.astype(np.int32),
        policy_version=np.zeros(n, dtype=np.int64),
        families=tuple(f"family/{number}" for number in range(families)),
    )
    learnable = rng.random(n) < 0.8
    learnable[:families] = True
    store.policy_version = rng.choice([-1, 0, 100, 200], size=n)
    return store, learnable


@pytest.fixture
def make_store() -> Callable[..., tuple[Store, npt.NDArray[np.bool_]]]:
    return random_store
