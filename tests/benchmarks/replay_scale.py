"""A replay store of any size made on the fly, and what is measured on it, in a process of its own.

``python -m tests.benchmarks.replay_scale make FOLDER COUNT`` writes a store: 8,192 trajectories of
10 steps are drawn once; every shard holds them again with identities, tasks, returns, lengths of
their own index and policy versions drawn anew. ``measure FOLDER`` prints a JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from retro_lightning.replay.records import encode
from retro_lightning.replay.schema import SCHEMA
from retro_lightning.replay.shard import publish
from retro_lightning.trajectory import Generation, Step, Task, Trajectory

SHARD = 8192
STEPS = 10
_WORDS = ("red", "green", "ball", "key", "door", "left", "right", "ahead", "wall", "box", "two")
_ACTIONS = ("go forward", "turn left", "turn right", "pick up", "drop", "toggle")


def trajectory(rng: np.random.Generator, number: int) -> Trajectory:
    """Ten steps as a small language model leaves them: about 2.5 kB in a shard."""
    return Trajectory(
        task=Task(
            task_id=f"babyai/go-to:{number % 5000:032x}",
            family=f"babyai/family-{number % 6}",
            instruction="go to the red ball behind you",
            seed=number,
            split="train",
        ),
        steps=tuple(_step(rng) for _ in range(STEPS)),
        final_observation="You see a wall.",
        final_valid_actions=_ACTIONS[:3],
        terminated=True,
        truncated=False,
        truncation=None,
        success=bool(rng.integers(2)),
        source="rollout",
        behaviour_id="policy",
        run="benchmark",
        attempt=number,
        policy_version=int(rng.integers(1000)),
        tokenizer="0123456789abcdef",
    )


def _step(rng: np.random.Generator) -> Step:
    logs = np.log(rng.dirichlet(np.ones(4)))
    return Step(
        observation="You see " + " ".join(rng.choice(_WORDS, 8)) + ".",
        valid_actions=_ACTIONS[:4],
        action=_ACTIONS[0],
        reward=float(rng.random() < 0.1),
        log_prob=float(logs[0]),
        log_probs=tuple(logs.tolist()),
        generation=Generation(
            context_ids=tuple(rng.integers(0, 500, 20).tolist()),
            action_ids=tuple(rng.integers(0, 500, 4).tolist()),
            value=float(rng.random()),
        ),
    )


def make(folder: Path, count: int) -> None:
    """Write a store of ``count`` trajectories."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    base = encode([trajectory(rng, number) for number in range(min(count, SHARD))])
    for number, start in enumerate(range(0, count, SHARD)):
        rows = min(SHARD, count - start)
        publish(folder, number, [_drawn_anew(base.slice(0, rows), start, rng)], [])


def _drawn_anew(batch: pa.RecordBatch, start: int, rng: np.random.Generator) -> pa.RecordBatch:
    rows = len(batch)
    new = {
        "trajectory_id": [f"{start + row:032x}" for row in range(rows)],
        "content_hash": [f"{start + row:032x}" for row in range(rows)],
        "task_id": [f"babyai/go-to:{task:032x}" for task in rng.integers(0, 50_000, rows)],
        "total_return": rng.random(rows),
        "success": rng.random(rows) < 0.4,
        "policy_version": rng.integers(0, 1000, rows),
    }
    whole = batch.take(pa.array(rng.permutation(rows)))
    columns = [
        pa.array(new[field.name], field.type) if field.name in new else whole.column(field.name)
        for field in SCHEMA
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def measure(folder: Path) -> dict[str, float]:
    """Wall-clock and processor times in milliseconds (medians of several), memory in MiB."""
    bare = _anonymous()
    from retro_lightning.curriculum.prioritisation import QualityWeighted
    from retro_lightning.replay.store import ReplayStore

    imported = _anonymous()
    result: dict[str, float] = {}
    store = ReplayStore(folder)  # the first one also pays for what pyarrow loads late
    runs = [lambda: ReplayStore(folder).index] * 3
    result["open_ms"], result["open_cpu_ms"] = _median(runs)
    rng = np.random.default_rng(1)
    firsts = store._starts[:-1].tolist()  # compares every shard with its checksum, once
    touches = [lambda row=row: store.arrays([row]) for row in firsts]
    result["first_touch_of_shard_ms"], result["first_touch_of_shard_cpu_ms"] = _median(touches)
    batches = [rng.integers(0, len(store), 64) for _ in range(200)]
    result["batch_ms"], result["batch_cpu_ms"] = _median(
        [lambda rows=rows: store.arrays(rows) for rows in batches]
    )
    result["records_ms"], result["records_cpu_ms"] = _median(
        [lambda rows=rows: store.read(rows) for rows in batches[:20]]
    )
    index = store.index
    learnable = index.is_train & ~index.faulted & (index.length > 0)
    weigh = QualityWeighted()
    result["reweight_ms"], result["reweight_cpu_ms"] = _median(
        [lambda: weigh.probabilities(index, learnable, 0.5)] * 7
    )
    columns = (value for value in vars(index).values() if isinstance(value, np.ndarray))
    result["index_mib"] = sum(column.nbytes for column in columns) / 2**20
    result["anonymous_mib"] = _anonymous() - bare
    result["of_which_imports_mib"] = imported - bare
    result["gib"] = sum(record.size for record in store._records) / 2**30
    result["shards"] = len(store._records)
    return result


def _median(runs: list[Callable[[], object]]) -> tuple[float, float]:
    """Medians of wall-clock and processor time, in milliseconds."""
    times = []
    for run in runs:
        wall, processor = time.perf_counter(), time.process_time()
        run()
        times.append((time.perf_counter() - wall, time.process_time() - processor))
    wall_ms, processor_ms = 1e3 * np.median(times, axis=0)
    return float(wall_ms), float(processor_ms)


def _anonymous() -> float:
    """Anonymous resident memory of this process in MiB (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("this system does not tell RssAnon")


if __name__ == "__main__":
    place = Path(sys.argv[2])
    if sys.argv[1] == "make":
        make(place, int(sys.argv[3]))
    else:
        print(json.dumps(measure(place)))
