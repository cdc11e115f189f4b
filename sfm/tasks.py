"""Batches of work on a `concurrent.futures.Executor`: a dying child costs one retry, a poison item itself."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from tqdm import tqdm

from sfm.child import Child, WorkerDied
from sfm.store import StageRecord, load_done, mark_done, require_space

__all__ = [
    "Batch",
    "BatchResult",
    "LocalExecutor",
    "SerialExecutor",
    "WorkerDied",
    "cpu_seconds",
    "run_batches",
]

Item = TypeVar("Item")
# What an engine may hold at once: enough to keep a cluster busy, few enough to keep its scheduler small.
_IN_FLIGHT = 64


class SerialExecutor(Executor):
    """Runs every task at once in this process: for small work, for debugging, inside an engine's worker."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run `fn` and return its finished future."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class LocalExecutor(Executor):
    """Runs each task in a child process of its own, at most `max_workers` (default: every core) at a time.

    A task may abort or be killed: its future raises WorkerDied and everything else goes on. Tasks are
    functions of an importable module with picklable arguments. Leaving the `with` block by an error kills
    what runs.
    """

    def __init__(self, max_workers: int | None = None) -> None:
        workers = _usable_cores() if max_workers is None else max_workers
        if workers < 1:
            raise ValueError(f"workers: expected at least 1, got {workers}; leave it out to use every core")
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="child")
        self._children: set[Child] = set()
        self._stopped = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Queue `fn` for a child process of its own."""
        return self._threads.submit(self._run, fn, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Wait for the queued tasks; with `cancel_futures`, drop them and kill the running children."""
        if cancel_futures:
            self._stopped = True
            self._threads.shutdown(wait=False, cancel_futures=True)
            for child in tuple(self._children):
                child.kill()
        self._threads.shutdown(wait=wait)

    def __exit__(self, exc_type: object, exc_value: object, traceback: object) -> None:
        self.shutdown(cancel_futures=exc_type is not None)

    def _run(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        child = Child(fn, args, kwargs)
        self._children.add(child)
        if self._stopped:
            child.kill()
        try:
            return child.result()
        finally:
            self._children.discard(child)


@dataclass(frozen=True, kw_only=True)
class Batch(Generic[Item]):
    """Items worked on together by one task; `key` stands for everything that decides the outcome."""

    name: str
    key: str
    items: tuple[Item, ...]


@dataclass(frozen=True, kw_only=True)
class BatchResult:
    """What one batch gave: plain facts, its files, and the positions of the items that kill their worker.

    `cpu_seconds` is what the task used, in whichever run it was done.
    """

    name: str
    facts: dict[str, Any]
    outputs: tuple[Path, ...]
    quarantined: dict[int, str]
    cpu_seconds: float


# Takes a batch, writes files below the folder of the run, returns JSON-able facts and the files it wrote.
BatchFunction = Callable[[Batch[Item]], tuple[dict[str, Any], Sequence[Path]]]
_Answer = tuple[dict[str, Any], Sequence[Path], float]


def run_batches(
    function: BatchFunction[Item],
    batches: Sequence[Batch[Item]],
    folder: Path,
    executor: Executor,
    *,
    label: str,
) -> list[BatchResult]:
    """Run `function` on every batch that is not done yet; return the results of all, in the order given.

    Each finished batch is recorded in `folder`/done, so that a run that was killed goes on where it was. A
    batch whose worker dies is tried once more, then halved until the items that kill it are found; it is then
    run without them, and they come back as `quarantined` (position in the batch -> reason). Any other error
    ends the run.
    """
    results: dict[int, BatchResult] = {}
    with _progress(label, sum(len(batch.items) for batch in batches)) as bar:
        for index, batch in enumerate(batches):
            if record := load_done(folder, batch.name, batch.key):
                results[index] = _from_record(record, folder)
                bar.update(len(batch.items))
        waiting = [index for index in range(len(batches)) if index not in results]
        suspects = []
        for index, answer in _completed(function, {index: batches[index] for index in waiting}, executor):
            if answer is None:
                suspects.append(index)
                continue
            results[index] = _record(folder, batches[index], answer, {})
            bar.update(len(batches[index].items))
        for index in sorted(suspects):
            results[index] = _run_without_poison(function, batches[index], folder, executor)
            bar.update(len(batches[index].items))
    return [results[index] for index in range(len(batches))]


def cpu_seconds(results: Sequence[BatchResult]) -> float:
    """Processor time of all batches together."""
    return round(sum(result.cpu_seconds for result in results), 3)


def _completed(
    function: BatchFunction[Item], batches: dict[int, Batch[Item]], executor: Executor
) -> Iterator[tuple[int, _Answer | None]]:
    """Yield (index, answer) as batches finish, a bounded number in flight; None where the worker died."""
    queue = iter(batches.items())
    running: dict[Future[Any], int] = {}
    try:
        while True:
            while len(running) < _IN_FLIGHT and (following := next(queue, None)) is not None:
                future = executor.submit(_measured, function, following[1])
                running[future] = following[0]
                if future.done():
                    break  # it ran at once: take note of it before anything else runs
            if not running:
                return
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                index = running.pop(future)
                try:
                    answer = future.result()
                except (WorkerDied, MemoryError):
                    answer = None
                yield index, answer
    finally:
        for future in running:
            future.cancel()


def _run_without_poison(
    function: BatchFunction[Item], batch: Batch[Item], folder: Path, executor: Executor
) -> BatchResult:
    poison: dict[int, str] = {}

    def cause_of_death(positions: list[int]) -> str:
        trial = replace(batch, items=tuple(batch.items[position] for position in positions))
        try:
            executor.submit(function, trial).result()
        except (WorkerDied, MemoryError) as error:
            return str(error) or "out of memory"
        return ""

    def search(positions: list[int]) -> None:
        reason = cause_of_death(positions)
        if reason and len(positions) == 1:
            poison[positions[0]] = reason
        elif reason:
            middle = len(positions) // 2
            search(positions[:middle])
            search(positions[middle:])

    require_space(folder)  # a full disk kills workers too, and is no fault of the items
    search(list(range(len(batch.items))))
    require_space(folder)
    kept = tuple(item for position, item in enumerate(batch.items) if position not in poison)
    # Trials wrote their part over the batch's files: the last run is always the one with all that is kept.
    answer = executor.submit(_measured, function, replace(batch, items=kept)).result()
    return _record(folder, batch, answer, poison)


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _measured(function: BatchFunction[Item], batch: Batch[Item]) -> _Answer:
    started = time.process_time()
    facts, outputs = function(batch)
    return facts, outputs, time.process_time() - started


def _record(folder: Path, batch: Batch[Item], answer: _Answer, poison: dict[int, str]) -> BatchResult:
    facts, outputs, seconds = answer
    quarantined = {str(position): reason for position, reason in poison.items()}
    stored = {"facts": facts, "quarantined": quarantined}
    record = mark_done(folder, batch.name, batch.key, seconds=seconds, facts=stored, outputs=outputs)
    return _from_record(record, folder)


def _from_record(record: StageRecord, folder: Path) -> BatchResult:
    return BatchResult(
        name=record.stage,
        facts=record.facts["facts"],
        outputs=tuple(folder / name for name in record.outputs),
        quarantined={int(position): reason for position, reason in record.facts["quarantined"].items()},
        cpu_seconds=record.seconds,
    )


def _progress(label: str, total: int) -> "tqdm[Any]":
    # A log file gets a line now and then instead of several a second.
    interval = 0.2 if sys.stderr.isatty() else 15.0
    return tqdm(total=total, desc=label, file=sys.stderr, mininterval=interval)
