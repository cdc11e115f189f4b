"""Batches of work on a `concurrent.futures.Executor`: a dying child costs one retry, a poison item itself."""

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from pathlib import Path
from typing import Any

from groundwork.batches import Batch, BatchFunction, BatchResult, Item
from groundwork.child import WorkerDied
from groundwork.executors import window
from groundwork.memory import peak_bytes
from groundwork.progress import progress
from groundwork.records import StageRecord, load_done
from groundwork.rescue import Rescue, perform, task


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
    with progress(desc=label, unit="it", total=sum(len(batch.items) for batch in batches)) as bar:

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
            yield finished(index, batch, Rescue(function, batch, folder, executor).run(death))


def usage(results: Sequence[BatchResult]) -> dict[str, Any]:
    """What all batches of a stage took together, for its record.

    `peak_bytes` is the largest of a task's process, `parent_peak_bytes` that of this process until now.
    """
    return {
        "tasks": len(results),
        "cpu_seconds": round(sum(result.cpu_seconds for result in results), 3),
        "peak_bytes": max((result.peak_bytes for result in results), default=0),
        "parent_peak_bytes": peak_bytes(),
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
                future = executor.submit(task(perform, batch), function, folder, {}, 0, batch)
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
