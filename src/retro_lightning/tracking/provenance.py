"""Data half: what a run was made from: code, packages, data."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import retro_lightning
from retro_lightning.replay.store import ReplayStore


@dataclass(frozen=True)
class StoreDescription:
    """What names a generation of a replay store.

    Attributes:
        name: Name of its folder.
        path: The folder.
        digest: Hash over the names of its published shards, which are never changed.
        trajectories: How many it holds.
        steps: Steps (turns) of all of them.
    """

    name: str
    path: str
    digest: str
    trajectories: int
    steps: int


def describe_store(store: ReplayStore) -> StoreDescription:
    """The generation of a store as it has been read."""
    names = "\n".join(store.snapshot())
    return StoreDescription(
        name=store.path.name,
        path=str(store.path),
        digest=hashlib.blake2b(names.encode(), digest_size=8).hexdigest(),
        trajectories=len(store),
        steps=int(store.index.length.sum()),
    )


@functools.cache
def code_version() -> tuple[str, str | None]:
    """Version of the package, and the git commit it is run from, if it is run from a checkout.

    A commit is marked with ``+`` when tracked files differ from it.
    """
    folder = Path(retro_lightning.__file__).parent
    commit = _git(folder, "rev-parse", "HEAD")
    if commit and _git(folder, "status", "--porcelain", "--untracked-files=no"):
        commit += "+"
    return retro_lightning.__version__, commit or None


@functools.cache
def package_versions() -> dict[str, str]:
    """Installed versions of what the package requires, and Python's."""
    versions = {"python": platform.python_version()}
    try:
        requirements = importlib.metadata.requires("retro_lightning") or []
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        requirements = []
    for requirement in requirements:
        name = re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0]
        if "extra ==" not in requirement:
            versions[name] = importlib.metadata.version(name)
    return dict(sorted(versions.items()))


def _git(folder: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
