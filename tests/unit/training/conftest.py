"""Shared by the tests of training: one history for all of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fits import Fit


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the history of the two corridors is made once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def make_fit(tmp_path: Path, cache_dir: Path) -> Callable[..., Fit]:
    """Makes fits by the parent of their run directory; all runs are called ``run``.

    A trajectory's identity contains the name of its run: runs that are compared share it.
    """

    def make(parent: str, **settings: Any) -> Fit:
        return Fit(tmp_path / parent / "run", cache_dir, **settings)

    return functools.partial(make)
