"""Seconds a rerun takes to find that many tasks are done: `python -m experiments.benchmarks.rerun`.

Every task has a file and facts about as large as those of a block of matched pairs.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from groundwork.batches import Batch
from groundwork.executors import SerialExecutor
from groundwork.keys import key_of
from groundwork.tasks import run_batches

LIMIT_SECONDS = 2.0
_FILE_BYTES = 4096
_FACTS = 200
_RERUNS = 3


def measure(tasks: int, folder: Path) -> list[float]:
    """Do `tasks` tasks in `folder`; return the seconds of some reruns, each of which must do none again."""
    batches = [Batch(name=f"task-{n:05d}", key=key_of(n), items=(n,)) for n in range(tasks)]

    def work(batch: Batch[int]) -> tuple[dict[str, Any], Sequence[Path]]:
        path = folder / batch.name
        path.write_bytes(batch.items[0].to_bytes(8, "little") * (_FILE_BYTES // 8))
        return {"counts": list(range(_FACTS))}, [path]

    def forbidden(batch: Batch[int]) -> tuple[dict[str, Any], Sequence[Path]]:
        raise RuntimeError(f"rerun: expected no work, got {batch.name}; its record was not found whole")

    run_batches(work, batches, folder, SerialExecutor(), label="first run")
    seconds = []
    for _ in range(_RERUNS):
        started = time.perf_counter()
        run_batches(forbidden, batches, folder, SerialExecutor(), label="rerun")
        seconds.append(time.perf_counter() - started)
    return seconds


def main() -> int:
    """Print the median; exit code 1 where it reaches the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=10_000)
    tasks = parser.parse_args().tasks
    with tempfile.TemporaryDirectory() as folder:
        seconds = sorted(measure(tasks, Path(folder)))
    median = seconds[len(seconds) // 2]
    times = ", ".join(f"{each:.2f}" for each in seconds)
    print(f"rerun of {tasks:,} tasks that are done: {median:.2f} s (of {times}); limit {LIMIT_SECONDS:.0f} s")
    return int(median >= LIMIT_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
