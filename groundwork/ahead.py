"""Work that child processes do ahead of whoever needs it; results in the order of the items."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from itertools import islice
from typing import TypeVar

from groundwork.child import WorkerDied
from groundwork.executors import LocalExecutor

Item = TypeVar("Item")
Result = TypeVar("Result")

# Batches that are ready or being worked on beyond one for each process: none waits for its next one.
_SPARE_BATCHES = 2


def work_ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    together: int,
    lost: Callable[[Item, str], Result],
) -> Iterator[Result]:
    """Yield `function` of each item in order; `workers` processes are ahead, 0 does it all in this one.

    A process takes `together` items and sends their results through a pipe, which works wherever processes
    do: shared memory and semaphores live in /dev/shm, which containers keep small, or read-only. When a
    process dies, each of its items is tried again in a process of its own; for one that dies with that, too,
    the result is what `lost` makes of the item and the cause of death, or what `lost` raises. `function`
    belongs to an importable module; the exceptions that it raises are raised here.
    """
    if workers == 0:
        yield from map(function, items)
        return
    source = iter(items)
    batches = iter(lambda: list(islice(source, together)), [])
    with LocalExecutor(workers) as executor:
        submit = partial(executor.submit, _each, function)
        for batch, future in in_order(submit, batches, workers + _SPARE_BATCHES):
            yield from _results(executor, function, batch, future, lost)


def in_order(
    submit: Callable[[Item], Future[Result]], items: Iterable[Item], window: int
) -> Iterator[tuple[Item, Future[Result]]]:
    """Yield each item with what `submit` made of it; `window` of them are submitted before the first is."""
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    for item in items:
        waiting.append((item, submit(item)))
        if len(waiting) >= window:
            yield waiting.popleft()
    yield from waiting


def _each(function: Callable[[Item], Result], batch: list[Item]) -> list[Result]:
    return [function(item) for item in batch]


def _results(
    executor: LocalExecutor,
    function: Callable[[Item], Result],
    batch: list[Item],
    future: Future[list[Result]],
    lost: Callable[[Item, str], Result],
) -> list[Result]:
    try:
        return future.result()
    except (WorkerDied, MemoryError):
        return [_alone(executor, function, item, lost) for item in batch]


def _alone(
    executor: LocalExecutor,
    function: Callable[[Item], Result],
    item: Item,
    lost: Callable[[Item, str], Result],
) -> Result:
    try:
        result: Result = executor.submit(function, item).result()
    except (WorkerDied, MemoryError) as death:
        return lost(item, str(death) or "out of memory")
    return result
