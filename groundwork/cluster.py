"""Tasks on a Dask cluster: a scheduler, and workers on hosts that share a file system with this one."""

import logging
import math
import shutil
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from secrets import token_hex
from types import ModuleType
from typing import Any

from groundwork.child import Child, WorkerDied, preload, preloaded
from groundwork.executors import Guarded, guarded
from groundwork.files import UNFINISHED
from groundwork.memory import MemoryBudget, usable_bytes

# What decides the bytes of a result: on every host the same, or runs could not be compared.
_PACKAGES = ("cnnimretrieval", "pycolmap", "numpy", "scipy", "pillow")
_SECONDS_TO_ANSWER = 10
_SECONDS_FOR_A_WORKER = 30
_SECONDS_BETWEEN_COUNTS = 5


class ClusterLost(ConnectionError):
    """The scheduler does not answer, or no longer."""


@dataclass(frozen=True, kw_only=True)
class Demands:
    """What a worker must offer.

    Attributes:
        photos: folder that it must see.
        out: folder that it must write to.
        sign: a folder in `out`, by which the worker knows that it is the same one.
        packages: versions that it must have, by name.
        preload: modules that its children need, as `groundwork.child.preload` was told.

    """

    photos: str
    out: str
    sign: str
    packages: tuple[tuple[str, str], ...]
    preload: tuple[str, ...] = ()


class ClusterExecutor(Executor):
    """Runs each task in a child process of a Dask worker; close it, or leave its `with` block, when done.

    The child has the same environment and limits as one of this machine (`groundwork.child`), and the memory
    that Dask gives to its worker: results are the same bytes. Workers may come and go. A task whose worker is
    lost goes to another one; it raises WorkerDied when that happens again and again. When the scheduler is
    lost, futures raise ClusterLost.
    """

    def __init__(self, scheduler: str, photos: Path, out: Path) -> None:
        distributed = _distributed()
        self._scheduler = scheduler
        try:
            self._client = distributed.Client(scheduler, timeout=_SECONDS_TO_ANSWER, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ClusterLost(
                f"scheduler {scheduler}: expected a Dask scheduler that answers, got '{_first_line(error)}'; "
                "start one with 'dask scheduler', or correct its address"
            ) from error
        out = out.resolve()
        self._sign = out / f"{UNFINISHED}sign-{token_hex(8)}"
        self._demands = Demands(
            photos=str(photos.resolve()),
            out=str(out),
            sign=str(self._sign),
            packages=tuple(versions().items()),
            preload=preloaded(),
        )
        self._slots, self._counted = 0, -math.inf
        try:
            self._require_workers()
        except BaseException:
            self.shutdown()
            raise
        self._engine = self._client.get_executor(pure=False)

    def __str__(self) -> str:
        return f"Dask cluster {self._scheduler}"

    @property
    def slots(self) -> int:
        """Threads of all workers, counted every few seconds: workers come and go."""
        now = time.monotonic()
        if now - self._counted >= _SECONDS_BETWEEN_COUNTS and self._client.status == "running":
            self._slots = int(self._client.scheduler_info(n_workers=0)["total_threads"])
            self._counted = now
        return self._slots

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Queue `fn` for a child process of some worker."""
        if self._client.status != "running":
            raise self._lost()
        self._sign.mkdir(exist_ok=True)  # whoever sweeps the folder takes it for a leftover
        theirs = self._engine.submit(run_in_child, self._demands, guarded(fn), args, kwargs)
        ours: Future[Any] = Future()
        # Let go once it is done: what somebody may still ask for is done again when its worker is lost.
        held = [theirs]

        def hand_over(theirs: Future[Any]) -> None:
            held.clear()
            if ours.cancelled():
                return
            try:
                ours.set_result(theirs.result())
            except CancelledError:
                ours.set_exception(self._lost())
            except Exception as error:
                ours.set_exception(_as_ours(error))

        def pass_on(ours: Future[Any]) -> None:
            if ours.cancelled():
                for future in held:
                    future.cancel()

        ours.add_done_callback(pass_on)
        theirs.add_done_callback(hand_over)
        return ours

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the cluster; it drops the tasks that are not done, and goes on without us."""
        self._client.close(timeout=_SECONDS_TO_ANSWER if wait else 0)
        shutil.rmtree(self._sign, ignore_errors=True)

    def _lost(self) -> ClusterLost:
        return ClusterLost(
            f"scheduler {self._scheduler}: expected it to answer until the end, got no answer any more; "
            "start it again, with its workers, and run the same command again to continue"
        )

    def _require_workers(self) -> None:
        try:
            self._client.wait_for_workers(1, timeout=_SECONDS_FOR_A_WORKER)
        except TimeoutError as error:
            raise RuntimeError(
                f"scheduler {self._scheduler}: expected at least one worker, got none in "
                f"{_SECONDS_FOR_A_WORKER} s; start some with 'dask worker {self._scheduler}'"
            ) from error
        self._sign.mkdir(parents=True, exist_ok=True)
        found = self._client.run(fault_of_worker, self._demands, on_error="return")
        for worker, fault in sorted(found.items()):
            if fault:
                raise RuntimeError(
                    f"worker {worker}: {_unable(fault) if isinstance(fault, Exception) else fault}"
                )


@cache
def fault_of_worker(demands: Demands) -> str:
    """On a worker, once: what it lacks, or nothing."""
    packages = versions()
    for package, version in demands.packages:
        if packages[package] != version:
            return f"expected {package} {version} as here, got {packages[package]}; install the same version"
    shared = "share it between the hosts under the same path"
    if not Path(demands.photos).is_dir():
        return f"expected the folder of photos {demands.photos}, got no such folder there; {shared}"
    try:
        (Path(demands.sign) / token_hex(8)).touch()
    except OSError:
        return f"expected to write to {demands.out}, got no such folder or no leave there; {shared}"
    return ""


def run_in_child(demands: Demands, task: Guarded, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """On a worker: run a task in a child process, ended early where nobody waits for it any more."""
    distributed = _distributed()
    worker = distributed.get_worker()
    if fault := fault_of_worker(demands):
        raise RuntimeError(f"worker {worker.address}: {fault}")
    preload(*demands.preload)
    key = worker.get_current_task()

    def unwanted() -> bool:
        state = worker.state.tasks.get(key)
        return state is None or state.state == "cancelled"

    with _memory_of_worker(worker.memory_manager.memory_limit).reserve(task.memory_bytes):
        return Child(task.fn, args, kwargs, task.limits, unwanted).result()


def versions() -> dict[str, str]:
    """Versions of the packages that decide a result, as far as they are installed here."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "none"
    return found


@cache
def _memory_of_worker(limit: int | None) -> MemoryBudget:
    # One a process: the threads of a worker share it.
    return MemoryBudget(limit or usable_bytes())


def _unable(error: Exception) -> str:
    wanted = f"cnnimretrieval {versions()['cnnimretrieval']}"
    return f"expected {wanted} as here, got '{_first_line(error)}'; install it there"


def _as_ours(error: Exception) -> Exception:
    if isinstance(error, _distributed().KilledWorker):
        return WorkerDied("every worker of the cluster that had it died")
    if isinstance(error, ModuleNotFoundError):
        return RuntimeError(f"a worker of the cluster: {_unable(error)}")
    return error


def _distributed() -> ModuleType:
    try:
        import distributed
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "--scheduler: expected the package distributed, got none; pip install 'cnnimretrieval[cluster]'"
        ) from error
    # It tells at length what we tell in a line, and gives many of its loggers levels of their own.
    for name in ("distributed", *logging.root.manager.loggerDict):
        if name.partition(".")[0] == "distributed":
            logging.getLogger(name).setLevel(logging.CRITICAL)
    module: ModuleType = distributed
    return module


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
