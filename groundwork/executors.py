"""Where tasks run on this machine: in this process, or each in a child process of its own."""

import os
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from groundwork.child import UNLIMITED, Child, Limits, WorkerDied
from groundwork.memory import MemoryBudget, usable_bytes

# What an engine may hold at once, at least; a second task for each slot, so that none waits for us.
_MIN_WINDOW = 64
_TASKS_A_SLOT = 2


@runtime_checkable
class Slotted(Protocol):
    """An executor that knows how many tasks it runs at a time, which may change."""

    @property
    def slots(self) -> int:
        """Tasks that run at a time now."""


@dataclass(frozen=True, kw_only=True)
class Guarded:
    """A function with what its call will need and what it may take.

    An executor with child processes keeps to both; to any other it is the function itself.

    Attributes:
        fn: of an importable module.
        memory_bytes: estimated peak of the resident memory.
        limits: at which the call is ended.

    """

    fn: Callable[..., Any]
    memory_bytes: int = 0
    limits: Limits = UNLIMITED

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self.fn(*args, **kwargs)


class SerialExecutor(Executor):
    """Runs every task at once in this process: for small work, for debugging, inside an engine's worker."""

    def __str__(self) -> str:
        return "this process"

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

    Fewer run where more would not fit into `memory_bytes` (default: what the machine or the container has
    left) by the estimates of `Guarded` tasks. A task may abort or be killed: its future raises WorkerDied and
    everything else goes on. Tasks are functions of an importable module with picklable arguments. Leaving
    the `with` block by an error kills what runs.
    """

    def __init__(self, max_workers: int | None = None, memory_bytes: int | None = None) -> None:
        workers = usable_cores() if max_workers is None else max_workers
        if workers < 1:
            raise ValueError(f"workers: expected at least 1, got {workers}; leave it out to use every core")
        self._workers = workers
        self._memory = MemoryBudget(usable_bytes() if memory_bytes is None else memory_bytes)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="child")
        self._children: set[Child] = set()
        self._stopped = False

    def __str__(self) -> str:
        workers = "1 process" if self._workers == 1 else f"{self._workers} processes"
        return f"{workers} in {self._memory.total_bytes / 1e9:.1f} GB"

    @property
    def slots(self) -> int:
        """Processes at a time."""
        return self._workers

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Queue `fn` for a child process of its own."""
        return self._threads.submit(self._run, guarded(fn), args, kwargs)

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

    def _run(self, task: Guarded, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with self._memory.reserve(task.memory_bytes):
            if self._stopped:
                raise WorkerDied("worker was not started: the executor is shut down")
            child = Child(task.fn, args, kwargs, task.limits)
            self._children.add(child)
            if self._stopped:
                child.kill()
            try:
                return child.result()
            finally:
                self._children.discard(child)


def guarded(fn: Callable[..., Any]) -> Guarded:
    """`fn` itself, if it is a guarded task already, or a task that needs nothing and may take anything."""
    return fn if isinstance(fn, Guarded) else Guarded(fn=fn)


def window(executor: Executor) -> int:
    """How many tasks to submit before any is done: enough to keep it busy, few enough to keep it small."""
    slots = executor.slots if isinstance(executor, Slotted) else 0
    return max(_MIN_WINDOW, _TASKS_A_SLOT * slots)


def usable_cores() -> int:
    """Processor cores that this process may use; where the system does not tell, those of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
