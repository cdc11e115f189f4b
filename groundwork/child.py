"""One function call in a child process of its own, which may die without taking this process with it."""

import gc
import math
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from groundwork.memory import resident_bytes

# One core a child: parallel work comes from many children, and results must not depend on thread numbers.
_THREAD_LIMITS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_preloaded: list[str] = []
_start_lock = threading.Lock()
_SECONDS_BETWEEN_LOOKS = 0.1


def preload(*modules: str) -> None:
    """Have modules loaded once in the fork server, so that a child that needs them starts in milliseconds.

    Of use before the first child of this process is started.
    """
    _preloaded.extend(module for module in modules if module not in _preloaded)


def preloaded() -> tuple[str, ...]:
    """What `preload` was told so far."""
    return tuple(_preloaded)


class WorkerDied(RuntimeError):
    """A child process ended without an answer: killed, aborted by a native library, or out of memory."""


class LimitReached(WorkerDied):
    """A child process was ended because it took more time or memory than it may: so it will another time."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a task may take before it is ended; None: any amount.

    Attributes:
        seconds: of wall clock, from its start.
        memory_bytes: resident at any time, shared libraries included; looked at ten times a second.

    """

    seconds: float | None = None
    memory_bytes: int | None = None


UNLIMITED = Limits()


class Child:
    """A running call. Its output is kept back; its first line is quoted if the child dies.

    The function must belong to an importable module, its arguments must be picklable. The child has one
    thread per native library and ends when this process ends, however it ends. It is ended as well, with
    WorkerDied, once `unwanted`, which is asked ten times a second, says yes.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        limits: Limits = UNLIMITED,
        unwanted: Callable[[], bool] | None = None,
    ) -> None:
        self._limits = limits
        self._unwanted = unwanted
        self._receiver, sender = multiprocessing.Pipe(duplex=False)
        descriptor, log = tempfile.mkstemp(prefix="child-", suffix=".log")
        os.close(descriptor)
        self._log = Path(log)
        with _start_lock, _environment(_THREAD_LIMITS), _no_main_module():
            _allow_children()
            process = _context().Process  # type: ignore[attr-defined]
            self._process: BaseProcess = process(target=_answer, args=(sender, log, fn, args, kwargs))
            self._process.daemon = True
            self._process.start()
        self._started = time.monotonic()
        sender.close()

    def result(self) -> Any:
        """Wait for the call and return its value or raise its exception.

        WorkerDied if there is none, LimitReached if that is because the child had to be ended.
        """
        try:
            self._watch()
            succeeded, value = self._receiver.recv()
            self._process.join()
        except (EOFError, ConnectionResetError):
            self._process.join()
            raise WorkerDied(_cause_of_death(self._process.exitcode, self._log)) from None
        finally:
            self._receiver.close()
            self._log.unlink(missing_ok=True)
        if succeeded:
            return value
        raise value

    def kill(self) -> None:
        """End the child at once."""
        self._process.kill()

    def _watch(self) -> None:
        """Return once there is an answer or none will come; end the child when it reaches a limit."""
        seconds, memory_bytes = self._limits.seconds, self._limits.memory_bytes
        end = math.inf if seconds is None else self._started + seconds
        pause = math.inf if memory_bytes is None and self._unwanted is None else _SECONDS_BETWEEN_LOOKS
        while True:
            left = max(0.0, end - time.monotonic())
            if self._receiver.poll(min(left, pause) if min(left, pause) < math.inf else None):
                return
            if not left:
                self._end(LimitReached(f"took longer than its limit of {_duration(seconds or 0)}"))
            if memory_bytes is not None and resident_bytes(self._process.pid) > memory_bytes:
                self._end(LimitReached(f"needed more memory than its limit of {memory_bytes / 1e9:.3g} GB"))
            if self._unwanted is not None and self._unwanted():
                self._end(WorkerDied("worker was ended: nobody waits for it any more"))

    def _end(self, reason: WorkerDied) -> NoReturn:
        self._process.kill()
        self._process.join()
        raise reason


def _context() -> BaseContext:
    """A fork server starts a child in milliseconds; Windows has none, and each child loads what it needs."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # This module, too: it reads every call, and takes longer to load than most calls to run.
    context.set_forkserver_preload([__name__, *_preloaded])
    return context


def _answer(
    sender: Connection, log: str, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Run one call in the child and send (succeeded, value or exception)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # native libraries print a stack trace otherwise
    threading.Thread(target=_end_with_parent, daemon=True).start()
    gc.freeze()  # what the fork server loaded stays: looking through it would copy every page of it
    with open(log, "ab", buffering=0) as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    try:
        answer = (True, fn(*args, **kwargs))
    except Exception as error:
        answer = (False, error)
    sender.send(answer)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.3g} min" if seconds >= 60 else f"{seconds:.3g} s"


def _cause_of_death(exit_code: int | None, log: Path) -> str:
    if exit_code is not None and exit_code < 0:
        names = {int(number): number.name for number in signal.Signals}
        cause = f"worker was ended by {names.get(-exit_code, f'signal {-exit_code}')}"
    else:
        cause = f"worker ended with exit code {exit_code}"
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    # Of a native stack trace only what comes before it tells something.
    lines = [line for line in lines if line and not line.startswith(("***", "PC:", "@"))]
    return f"{cause}: {lines[0][:200]}" if lines else cause


def _allow_children() -> None:
    """Let a daemonic process, as a worker of Dask is, have children.

    It may have none because they would outlive it when it is terminated: ours do not.
    """
    process = multiprocessing.current_process()
    if process.daemon:
        process.daemon = False


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables for the fork server, which takes them over when it starts."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _no_main_module() -> Iterator[None]:
    """Keep a child from importing the script that started us: slow, and endless without a main guard."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
