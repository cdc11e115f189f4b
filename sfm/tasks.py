"""Batches of work on a `concurrent.futures.Executor`: a dying child costs one retry, a poison item itself."""

import resource
import sys
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

from tqdm import tqdm

from sfm.child import UNLIMITED, LimitReached, Limits, WorkerDied
from sfm.executors import Guarded, window
from sfm.records import StageRecord, load_done, mark_done
from sfm.store import require_space

Item = TypeVar("Item")
# A child with our libraries loaded and next to no data: what a task needs that says nothing else.
CHILD_BYTES = 200_000_000


@dataclass(frozen=True, kw_only=True)
class Batch(Generic[Item]):
    """Items worked on together by one task.

    Attributes:
        name: unique among the batches of a folder; its record is `folder`/done/`name`.json.
        key: stands for everything that decides the outcome.
        items: handed to the function.
        memory_bytes: estimated peak of the resident memory, by which the number of tasks at a time is chosen.
        limits: at which the task is ended. A task of several items that reaches one is halved, an item that
            reaches one alone is quarantined.

    """

    name: str
    key: str
    items: tuple[Item, ...]
    memory_bytes: int = CHILD_BYTES
    limits: Limits = UNLIMITED


class LazyBatches(Sequence[Batch[Item]]):
    """Batches that are put together when they are asked for: memory holds few at a time."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, number: int, /) -> Batch[Item]:
        """The batch of a number from 0 up to the length."""

    @overload
    def __getitem__(self, number: int) -> Batch[Item]: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[Batch[Item]]: ...
    def __getitem__(self, number: int | slice) -> Batch[Item] | Sequence[Batch[Item]]:
        if isinstance(number, slice):
            return [self.batch(each) for each in range(*number.indices(len(self)))]
        if number >= len(self):
            raise IndexError(number)
        return self.batch(number)


@dataclass(frozen=True, kw_only=True)
class BatchResult:
    """What one batch gave, in whichever run it was done.

    Attributes:
        name: of the batch.
        facts: what the function said.
        outputs: its files.
        quarantined: position of each item that kills its worker or reaches a limit -> the reason.
        cpu_seconds: processor time of the task.
        peak_bytes: resident memory of its process at most.
        retries: further times the whole batch was tried because its worker died.

    """

    name: str
    facts: dict[str, Any]
    outputs: tuple[Path, ...]
    quarantined: dict[int, str]
    cpu_seconds: float
    peak_bytes: int
    retries: int


# Takes a batch, writes files below the folder of the run, returns JSON-able facts and the files it wrote.
BatchFunction = Callable[[Batch[Item]], tuple[dict[str, Any], Sequence[Path]]]


def run_batches(
    function: BatchFunction[Item],
    batches: Sequence[Batch[Item]],
    folder: Path,
    executor: Executor,
    *,
    label: str,
) -> list[BatchResult]:
    """Run `function` on every batch that is not done yet; return the results of all, in the order given.

    As `finished_batches`, for results that are small together.
    """
    results = dict(finished_batches(function, batches, folder, executor, label=label))
    return [results[index] for index in range(len(batches))]


def finished_batches(
    function: BatchFunction[Item],
    batches: Sequence[Batch[Item]],
    folder: Path,
    executor: Executor,
    *,
    label: str,
) -> Iterator[tuple[int, BatchResult]]:
    """Run `function` on every batch that is not done yet; yield the number and result of each as it is there.

    Those that are done already come first. Each finished batch is recorded in `folder`/done by the task
    itself, so that a run that was killed goes on where it was and loses no more than what was running. A
    batch whose worker dies is tried once more, then halved until the items that kill it are found; it is then
    run without them, and they come back as `quarantined`. Any other error ends the run.
    """
    with _progress(label, sum(len(batch.items) for batch in batches)) as bar:

        def finished(index: int, batch: Batch[Item], record: StageRecord) -> tuple[int, BatchResult]:
            bar.update(len(batch.items))
            return index, _from_record(record, folder)

        missing = []
        for index, batch in enumerate(batches):
            if record := load_done(folder, batch.name, batch.key):
                yield finished(index, batch, record)
            else:
                missing.append(index)
        # Put together as they are started: the sequence may make its batches when it is asked for them.
        waiting = ((index, batches[index]) for index in missing)
        deaths: dict[int, Exception] = {}
        for index, outcome in _completed(function, waiting, folder, executor):
            if isinstance(outcome, Exception):
                deaths[index] = outcome
            else:
                yield finished(index, batches[index], outcome)
        for index, death in sorted(deaths.items()):
            batch = batches[index]
            yield finished(index, batch, _Rescue(function, batch, folder, executor).run(death))


def usage(results: Sequence[BatchResult]) -> dict[str, Any]:
    """What all batches of a stage took together, for its record.

    `peak_bytes` is the largest of a task's process, `parent_peak_bytes` that of this process until now.
    """
    return {
        "tasks": len(results),
        "cpu_seconds": round(sum(result.cpu_seconds for result in results), 3),
        "peak_bytes": max((result.peak_bytes for result in results), default=0),
        "parent_peak_bytes": _peak_bytes(),
        "retries": sum(result.retries for result in results),
        "quarantined": sum(len(result.quarantined) for result in results),
    }


def _completed(
    function: BatchFunction[Item],
    queue: Iterator[tuple[int, Batch[Item]]],
    folder: Path,
    executor: Executor,
) -> Iterator[tuple[int, StageRecord | Exception]]:
    """Yield (index, record) as batches finish, a bounded number in flight; its death for one that died."""
    running: dict[Future[StageRecord], int] = {}
    try:
        while True:
            while len(running) < window(executor) and (following := next(queue, None)) is not None:
                index, batch = following
                future = executor.submit(_task(_perform, batch), function, folder, {}, 0, batch)
                running[future] = index
                if future.done():
                    break  # it ran at once: take note of it before anything else runs
            if not running:
                return
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                index = running.pop(future)
                try:
                    yield index, future.result()
                except (WorkerDied, MemoryError) as death:
                    yield index, death
    finally:
        for future in running:
            future.cancel()


class _Rescue(Generic[Item]):
    """Finds the items of a batch that kill their worker, and does the batch without them."""

    def __init__(
        self, function: BatchFunction[Item], batch: Batch[Item], folder: Path, executor: Executor
    ) -> None:
        self._function = function
        self._batch = batch
        self._folder = folder
        self._executor = executor
        self._retries = 0
        self._poison: dict[int, str] = {}

    def run(self, death: Exception) -> StageRecord:
        """Do the batch, whose first try ended by `death`."""
        require_space(self._folder)  # a full disk kills workers too, and is no fault of the items
        while True:
            if isinstance(death, LimitReached):
                # It would end the same way. Parts that keep to the limits may pass them together.
                unlimited = replace(self._batch, limits=UNLIMITED)
            else:
                unlimited = self._batch
                self._retries += 1
                outcome = self._perform(self._batch)
                if isinstance(outcome, StageRecord):
                    return outcome
                death = outcome
            kept = [row for row in range(len(self._batch.items)) if row not in self._poison]
            before = len(self._poison)
            self._halve(kept, _reason(death))
            require_space(self._folder)
            if len(self._poison) == before and unlimited is self._batch:
                self._poison |= dict.fromkeys(kept, _reason(death))  # only together do they die
            outcome = self._perform(unlimited)
            if isinstance(outcome, StageRecord):
                return outcome
            if not kept:
                raise outcome
            death = outcome

    def _halve(self, positions: list[int], reason: str) -> None:
        """Find the poison among items that died for this reason when they were together."""
        if len(positions) == 1:
            self._poison[positions[0]] = reason
            return
        middle = len(positions) // 2
        for half in (positions[:middle], positions[middle:]):
            if half and (why := self._cause_of_death(half)):
                self._halve(half, why)

    def _cause_of_death(self, positions: list[int]) -> str:
        trial = replace(self._batch, items=tuple(self._batch.items[position] for position in positions))
        try:
            self._executor.submit(_task(self._function, self._batch), trial).result()
        except (WorkerDied, MemoryError) as death:
            return _reason(death)
        return ""

    def _perform(self, batch: Batch[Item]) -> StageRecord | Exception:
        # Trials wrote their part over the batch's files: the last run is always one with all that is kept.
        kept = tuple(item for position, item in enumerate(batch.items) if position not in self._poison)
        arguments = (self._function, self._folder, self._poison, self._retries, replace(batch, items=kept))
        try:
            record: StageRecord = self._executor.submit(_task(_perform, batch), *arguments).result()
        except (WorkerDied, MemoryError) as death:
            return death
        return record


def _reason(death: Exception) -> str:
    return str(death) or "out of memory"


def _task(fn: Callable[..., Any], batch: Batch[Item]) -> Guarded:
    return Guarded(fn=fn, memory_bytes=batch.memory_bytes, limits=batch.limits)


def _perform(
    function: BatchFunction[Item], folder: Path, poison: dict[int, str], retries: int, batch: Batch[Item]
) -> StageRecord:
    """Do what is left of a batch without its poison, and record both, all in the process of the task.

    It may be done already: its process or host was lost between the record and the answer.
    """
    if record := load_done(folder, batch.name, batch.key):
        return record
    started = time.process_time()
    facts, outputs = function(batch)
    stored = {
        "facts": facts,
        "quarantined": {str(position): reason for position, reason in sorted(poison.items())},
        "peak_bytes": _peak_bytes(),
        "retries": retries,
    }
    seconds = time.process_time() - started
    return mark_done(folder, batch.name, batch.key, seconds=seconds, facts=stored, outputs=outputs)


def _from_record(record: StageRecord, folder: Path) -> BatchResult:
    return BatchResult(
        name=record.stage,
        facts=record.facts["facts"],
        outputs=tuple(folder / name for name in record.outputs),
        quarantined={int(position): reason for position, reason in record.facts["quarantined"].items()},
        cpu_seconds=record.seconds,
        peak_bytes=record.facts.get("peak_bytes", 0),
        retries=record.facts.get("retries", 0),
    )


def _peak_bytes() -> int:
    """Resident memory of this process at its peak."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _progress(label: str, total: int) -> "tqdm[Any]":
    # A log file gets a line now and then instead of several a second.
    interval = 0.2 if sys.stderr.isatty() else 15.0
    return tqdm(total=total, desc=label, file=sys.stderr, mininterval=interval)
