"""Kills writers, imports and compactions of one store at random moments, and looks at what is left.

``python -m tests.slow.replay_kills FOLDER KILLS SEED`` forks a child per kill from one process that
has imported everything, so that a kill costs milliseconds. A child tells every trajectory through a
pipe once it is acknowledged; after its end the store must hold all that were told, whole and once.
Prints counts as JSON; ends with an assertion if anything was lost.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from retro_lightning.replay import compaction
from retro_lightning.replay.formats import importing
from retro_lightning.replay.formats.items import Options
from retro_lightning.replay.formats.readers import READERS
from retro_lightning.replay.records import content_hash, decode
from retro_lightning.replay.store import ReplayStore
from retro_lightning.trajectory import Step, Task, Trajectory

CONVERSATIONS = 400
Tell = Callable[[list[Trajectory]], None]


def trajectory(number: int) -> Trajectory:
    """Follows from its number alone, so that any change of it would be seen."""
    draw = random.Random(number)
    return Trajectory(
        task=Task(task_id=f"f:{number % 7}", family="f", instruction="go", seed=0, split="train"),
        steps=tuple(
            Step(
                observation="x" * draw.randrange(200),
                valid_actions=("a", "b"),
                action="a",
                reward=draw.random(),
            )
            for _ in range(draw.randrange(1, 20))
        ),
        final_observation="end",
        final_valid_actions=(),
        terminated=True,
        truncated=False,
        truncation=None,
        success=True,
        source="rollout",
        behaviour_id="b",
        run="r",
        attempt=number,
    )


def write(folder: Path, tell: Tell, first: int) -> None:
    """Append without end."""
    store = ReplayStore(folder)
    for start in range(first, first + 10**6, 3):
        made = [trajectory(number) for number in range(start, start + 3)]
        store.append(made)
        tell(made)


def take_in(folder: Path, tell: Tell, _: int) -> None:
    """Import a log, in small shards; what was imported before is refused."""
    store = ReplayStore(folder)
    adopt = store.adopt

    def telling(batches: list[pa.RecordBatch]) -> str:
        name = adopt(batches)
        tell(decode(batches[0]))
        return name

    store.adopt = telling  # type: ignore[method-assign, assignment]
    log = folder.with_name("log.jsonl")
    importing.import_files(
        store,
        [log],
        "chat",
        READERS["chat"],
        Options(),
        rejects=folder / "rejects.jsonl",
        max_errors=0,
    )


def merge(folder: Path, tell: Tell, first: int) -> None:
    """Compact after every few appended shards, and delete what was replaced every other time."""
    store = ReplayStore(folder)
    for turn in range(10**6):
        for start in range(2):
            made = [trajectory(first + 2 * turn + start)]
            store.append(made)
            tell(made)
        store.compact(purge=turn % 2 == 1)


def main(folder: Path, kills: int, seed: int) -> dict[str, int]:
    """Kill and look, again and again."""
    warnings.simplefilter("error")  # a damaged shard would be a warning
    importing._SHARD_ROWS = 4
    compaction._LARGE_ROWS, compaction._SMALL_ROWS = 600, 150
    folder.mkdir()
    with folder.with_name("log.jsonl").open("w") as log:
        for number in range(CONVERSATIONS):
            asked = {"role": "user", "content": f"{number}?"}
            talk = [asked, {"role": "assistant", "content": "!"}]
            print(json.dumps({"messages": talk, "reward": number, "task_id": number}), file=log)
    rng, told, done = random.Random(seed), set[str](), Counter[str]()
    for turn in range(kills):
        work = (write, take_in, merge)[turn % 3]
        acknowledged = _killed(work, folder, rng, first=10_000 * (turn + 1))
        told.update(acknowledged)
        done[f"{work.__name__} killed after acknowledging"] += bool(acknowledged)
        _check(folder, told, thorough=turn % 20 == 19 or turn == kills - 1)
    take_in(folder, lambda made: told.update(t.trajectory_id for t in made), 0)
    ReplayStore(folder).compact(purge=True)
    rows = _check(folder, told, thorough=True)
    imported = sum(t.source == "import:chat" for t in rows)
    assert imported == CONVERSATIONS, f"{imported} of {CONVERSATIONS} conversations"
    return {**done, "kills": kills, "acknowledged": len(told), "stored": len(rows)}


def _killed(work: Callable[..., None], folder: Path, rng: random.Random, *, first: int) -> set[str]:
    """Fork a child that works, kill it in the midst, and return what it was told is stored.

    The kill comes a random moment after a random number of acknowledgements, none included.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)

        def tell(made: list[Trajectory]) -> None:
            os.write(writing, "".join(f"{t.trajectory_id}\n" for t in made).encode())

        try:
            os.write(writing, b"begun\n")
            work(folder, tell, first)
        finally:
            os._exit(0)
    os.close(writing)
    heard = b""
    for _ in range(rng.randrange(1, 8)):
        heard += (news := os.read(reading, 65536))
        if not news:  # the child has ended by itself
            break
    time.sleep(rng.random() * 0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as pipe:
        heard += pipe.read()
    return set(heard.decode().split()) - {"begun"}


def _check(folder: Path, told: set[str], *, thorough: bool) -> list[Trajectory]:
    store = ReplayStore(folder)
    ids = store.columns(("trajectory_id",))["trajectory_id"].to_pylist()
    assert len(ids) == len(set(ids)), "a trajectory is there twice"
    assert told <= set(ids), f"{len(told - set(ids))} acknowledged trajectories are lost"
    if not thorough:
        return []
    assert store.verify() == []
    stored = store.read(range(len(store)))
    hashes = store.columns(("content_hash",))["content_hash"].to_pylist()
    assert [t.trajectory_id for t in stored] == ids
    assert list(map(content_hash, stored)) == hashes
    assert all(t == trajectory(t.attempt) for t in stored if t.source == "rollout")
    return stored


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
