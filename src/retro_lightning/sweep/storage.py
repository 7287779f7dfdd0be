"""Behaviour half: where a study is kept, and how several workers open one and the same."""

from __future__ import annotations

import contextlib
import fcntl
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import DuplicatedStudyError, StorageInternalError
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.pool import NullPool

from retro_lightning.config.errors import ConfigError
from retro_lightning.sweep.settings import Sweep

_DEFINITION = "definition"
_PATIENCE = 10.0
_LOCK_KEY = 0x7265747266  # of all studies of a database; any number that nobody else takes
_KNOWN = "give sqlite:///FILE, journal:FILE or postgresql://USER@HOST/DATABASE"
Lock = Callable[[], AbstractContextManager[None]]


def open_storage(sweep: Sweep) -> tuple[optuna.storages.BaseStorage, Lock]:
    """The storage, and a lock over its workers.

    Of SQLite and a journal it is a file beside it, of PostgreSQL a lock of the database's own; the
    system, or the database, frees it when a worker dies.

    Raises:
        ConfigError: If it can't be reached.
    """
    address = sweep.settings.storage
    try:
        if address.startswith("journal:"):
            path = Path(address.removeprefix("journal:"))
            path.parent.mkdir(parents=True, exist_ok=True)
            return optuna.storages.JournalStorage(JournalFileBackend(str(path))), _file_lock(path)
        url = sqlalchemy.engine.make_url(address)
        if url.get_backend_name() not in ("sqlite", "postgresql"):
            raise ConfigError(f"{sweep.file}: storage is {url.get_backend_name()}; {_KNOWN}")
        options: dict[str, Any] = {"connect_args": {"timeout": 60}}
        lock: Lock = contextlib.nullcontext
        if url.get_backend_name() != "sqlite":
            options = {"connect_args": {"connect_timeout": 10}, "pool_pre_ping": True}
            lock = _database_lock(sqlalchemy.create_engine(url, poolclass=NullPool, **options))
        elif url.database:
            path = Path(url.database)
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = _file_lock(path)
        with lock():
            return optuna.storages.RDBStorage(address, engine_kwargs=options), lock
    except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError, OSError, ImportError) as error:
        raise ConfigError(_unreachable(sweep, address, error)) from error


def open_study(
    sweep: Sweep,
    storage: optuna.storages.BaseStorage,
    lock: Lock,
    *,
    suffix: str = "",
    definition: Mapping[str, Any],
    first: Mapping[str, Any] | None = None,
) -> optuna.Study:
    """The study, made by the first worker that comes.

    Args:
        sweep: The sweep.
        storage: Where it is kept.
        lock: Lock over the workers.
        suffix: Added to the study's name.
        definition: What must stay the same while the study goes on.
        first: Parameters of the first trial, if they are fixed.

    Raises:
        ConfigError: If the study began with another definition.
    """
    settings = sweep.settings
    name = settings.study + suffix
    text = json.dumps(definition, sort_keys=True)
    with lock():
        try:
            study = optuna.create_study(
                study_name=name,
                storage=storage,
                directions=list(settings.metrics.values()),
            )
        except DuplicatedStudyError:
            study = optuna.load_study(study_name=name, storage=storage)
            _wait_for_definition(study)
        if _DEFINITION not in study.user_attrs:
            if first is not None and not study.trials:
                study.enqueue_trial(dict(first))
            study.set_user_attr(_DEFINITION, text)
    before = json.loads(study.user_attrs[_DEFINITION])
    if before != json.loads(text):
        raise ConfigError(_changed(sweep, before, json.loads(text)))
    return study


def _wait_for_definition(study: optuna.Study) -> None:
    """Give the worker that is making the study right now a little time to finish."""
    until = time.monotonic() + _PATIENCE
    while _DEFINITION not in study.user_attrs and not study.trials and time.monotonic() < until:
        time.sleep(0.2)


def _changed(sweep: Sweep, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The sentence that names the first thing that is not as it was."""
    old, new = before.get("space", {}), now.get("space", {})
    remedy = "give the study another name, or say again what it began with"
    for key in [*new, *old]:
        if old.get(key) != new.get(key):
            what = "new" if key not in old else "gone" if key not in new else "another"
            return (
                f"{sweep.where(key)} is {what} since study {sweep.settings.study!r} began; {remedy}"
            )
    for key in now:
        if before.get(key) != now[key]:
            return f"{sweep.file}: {key} has changed since the study began; {remedy}"
    return f"{sweep.file}: the study has changed since it began; {remedy}"


def _file_lock(path: Path) -> Lock:
    file = path.with_name(f"{path.name}.workers")  # Optuna has a .lock of its own

    @contextlib.contextmanager
    def lock() -> Iterator[None]:
        with file.open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    return lock


def _database_lock(engine: sqlalchemy.Engine) -> Lock:
    """PostgreSQL's advisory lock, held as long as a connection of its own is open."""

    @contextlib.contextmanager
    def lock() -> Iterator[None]:
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK_KEY})
            yield

    return lock


def _unreachable(sweep: Sweep, address: str, error: Exception) -> str:
    try:
        shown = sqlalchemy.engine.make_url(address).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        shown = address.partition(":")[0] + ":..." if "@" in address else address
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    reason = str(root).strip().splitlines()[0] if str(root).strip() else type(root).__name__
    return (
        f"{sweep.file}: storage {shown} can't be reached ({reason}); check the address, and that "
        "the database is running and its driver installed"
    )
