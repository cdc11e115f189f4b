import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from experiments.benchmarks.measuring.fingerprint import Fingerprint, fingerprint
from groundwork.batches import Batch
from groundwork.child import LimitReached, Limits, WorkerDied
from groundwork.executors import Guarded, SerialExecutor, window
from groundwork.tasks import run_batches
from sfm.reconstruct import ReconstructConfig, reconstruct

distributed = pytest.importorskip("distributed")
psutil = pytest.importorskip("psutil")

from groundwork.cluster import ClusterExecutor, ClusterLost, Demands, _unable, fault_of_worker, versions  # noqa: E402

pytestmark = pytest.mark.slow

# Workers import the functions they run, so these live in a module of their own.
_WORK = """
import os
from pathlib import Path

def total(batch, folder):
    if any(item < 0 for item in batch.items):
        os.abort()
    path = Path(folder) / f"{batch.name}.txt"
    path.write_text(str(sum(batch.items)))
    return {"total": sum(batch.items)}, [path]

def doze(batch, folder):
    import time
    with (Path(folder) / "began").open("a") as file:
        print(batch.name, file=file)
    time.sleep(3600)
    return {}, []
"""


@dataclass(frozen=True)
class Cluster:
    """A scheduler and its workers, each a process."""

    address: str
    scheduler: "subprocess.Popen[bytes]"
    workers: "tuple[subprocess.Popen[bytes], ...]"

    def kill_a_worker(self) -> None:
        """Kill a worker behind the back of its nanny, which starts another one."""
        (worker,) = [
            child
            for child in psutil.Process(self.workers[0].pid).children(recursive=True)
            if "--multiprocessing-fork" in child.cmdline() or "spawn_main" in " ".join(child.cmdline())
        ]
        worker.kill()


@contextmanager
def _cluster(folder: Path, workers: int = 2, port: int = 0) -> Iterator[Cluster]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])}
    told = folder / f"scheduler-{time.monotonic_ns()}.json"

    def start(module: str, *words: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", f"distributed.cli.{module}", "--scheduler-file", str(told), *words]
        with (folder / "log").open("ab") as log:
            return subprocess.Popen([*command, "--no-dashboard"], env=environment, stderr=log)

    with ExitStack() as stack:
        scheduler = stack.enter_context(start("dask_scheduler", "--host", "127.0.0.1", "--port", str(port)))
        hands = tuple(
            stack.enter_context(start("dask_worker", "--nthreads", "1", "--local-directory", str(folder)))
            for _ in range(workers)
        )
        try:
            address = _wait_for(lambda: told.exists() and told.stat().st_size and _address(told))
            yield Cluster(address=address, scheduler=scheduler, workers=hands)
        finally:
            for hand in hands:
                hand.terminate()
            for hand in hands:  # which takes far longer without a scheduler to say goodbye to
                hand.wait()
            scheduler.terminate()


@contextmanager
def _worker(folder: Path, address: str, threads: int, first: Path) -> Iterator[None]:
    """One more worker, which finds its packages in `first` before anywhere else."""
    path = os.pathsep.join([str(first), str(folder), *filter(None, sys.path)])
    words = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", str(threads)]
    words += ["--no-nanny", "--no-dashboard", "--local-directory", str(folder)]
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(words, env=os.environ | {"PYTHONPATH": path}, stderr=log)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _address(told: Path) -> str:
    import json

    return str(json.loads(told.read_text())["address"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "work_of_cluster.py").write_text(_WORK)
    sys.path.insert(0, str(folder))
    try:
        yield folder
    finally:
        sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[Cluster]:
    with _cluster(folder) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def photos(two_scenes: dict[str, Any]) -> Path:
    root: Path = two_scenes["one"].folder.parent
    return root


@pytest.fixture(scope="module")
def unbroken(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Fingerprint:
    out = tmp_path_factory.mktemp("serial")
    reconstruct(photos, out, ReconstructConfig(), SerialExecutor())
    return fingerprint(out)


def _batches(*groups: Sequence[int]) -> list[Batch[int]]:
    return [Batch(name=f"b{n}", key=f"k{n}", items=tuple(items)) for n, items in enumerate(groups)]


def test_tasks_run_in_children_of_workers(cluster: Cluster, photos: Path, tmp_path: Path) -> None:
    with ClusterExecutor(cluster.address, photos, tmp_path) as executor:
        assert str(executor) == f"Dask cluster {cluster.address}"
        assert executor.submit(os.getenv, "OMP_NUM_THREADS").result() == "1"
        assert executor.submit(os.getpid).result() != executor.submit(os.getpid).result()
        with pytest.raises(ValueError, match="not defined for negative values"):
            executor.submit(math.factorial, -1).result()
        with pytest.raises(WorkerDied, match=r"^worker was ended by SIGABRT$"):
            executor.submit(os.abort).result()
        with pytest.raises(LimitReached, match=r"^took longer than its limit of 0\.5 s$"):
            executor.submit(Guarded(fn=time.sleep, limits=Limits(seconds=0.5)), 3600).result()


def test_poison_is_found_and_left_out(cluster: Cluster, photos: Path, folder: Path, tmp_path: Path) -> None:
    import work_of_cluster  # type: ignore[import-not-found]

    with ClusterExecutor(cluster.address, photos, tmp_path) as executor:
        work = partial(work_of_cluster.total, folder=str(tmp_path))
        good, bad = run_batches(work, _batches([1, 2], [3, -1, 4]), tmp_path, executor, label="test")
    assert (good.facts, bad.facts) == ({"total": 3}, {"total": 7})
    assert bad.quarantined == {1: "worker was ended by SIGABRT"}


def test_the_same_bytes_though_a_worker_is_killed(
    cluster: Cluster, photos: Path, unbroken: Fingerprint, tmp_path: Path
) -> None:
    with ClusterExecutor(cluster.address, photos, tmp_path) as executor:
        first = executor.submit(time.sleep, 0)
        first.add_done_callback(lambda _: cluster.kill_a_worker())
        reconstruct(photos, tmp_path, ReconstructConfig(), executor)
    assert fingerprint(tmp_path) == unbroken


def test_tasks_that_nobody_waits_for_are_ended(
    cluster: Cluster, photos: Path, folder: Path, tmp_path: Path
) -> None:
    import work_of_cluster

    workers = [psutil.Process(worker.pid) for worker in cluster.workers]

    def running() -> int:
        """Fork servers and their children."""
        number = 0
        for process in [process for worker in workers for process in worker.children(recursive=True)]:
            with suppress(psutil.Error):
                number += "multiprocessing.forkserver" in " ".join(process.cmdline())
        return number

    with ClusterExecutor(cluster.address, photos, tmp_path) as executor:
        work = partial(work_of_cluster.doze, folder=str(tmp_path))
        tasks = [executor.submit(work, batch) for batch in _batches([1], [2])]
        _wait_for(lambda: (tmp_path / "began").exists() and (tmp_path / "began").read_text().count("\n") == 2)
        assert running() >= 3
        tasks[0].cancel()
    _wait_for(lambda: running() <= 2)  # the fork server of each worker stays


def test_a_lost_scheduler_is_told_and_the_next_run_finishes(
    photos: Path, folder: Path, unbroken: Fingerprint, tmp_path: Path
) -> None:
    def command(address: str) -> "subprocess.Popen[str]":
        words = [sys.executable, "-m", "experiments.cli", "reconstruct", str(photos), "--out"]
        words += [str(tmp_path / "sfm"), "--scheduler", address]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return subprocess.Popen(
            words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    with _cluster(folder) as cluster, command(cluster.address) as run:
        _wait_for(lambda: list(tmp_path.glob("sfm/features/done/*.json")))
        cluster.scheduler.send_signal(signal.SIGKILL)
        said = run.communicate()[1]
    assert run.returncode == 1
    assert said.splitlines()[-1] == (
        f"cnnimretrieval: scheduler {cluster.address}: expected it to answer until the end, got no answer "
        "any more; start it again, with its workers, and run the same command again to continue"
    )
    assert "Traceback" not in said
    with _cluster(folder, workers=1) as cluster, command(cluster.address) as run:
        said = run.communicate()[1]
    assert run.returncode == 0, said
    assert fingerprint(tmp_path / "sfm") == unbroken


def test_no_scheduler_and_no_worker_are_told(
    photos: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("groundwork.cluster._SECONDS_TO_ANSWER", 1)
    monkeypatch.setattr("groundwork.cluster._SECONDS_FOR_A_WORKER", 1)
    with pytest.raises(ClusterLost, match=r"^scheduler tcp://127\.0\.0\.1:9: expected a Dask scheduler that"):
        ClusterExecutor("tcp://127.0.0.1:9", photos, tmp_path)
    with _cluster(folder, workers=0) as cluster, pytest.raises(RuntimeError) as error:
        ClusterExecutor(cluster.address, photos, tmp_path)
    assert str(error.value) == (
        f"scheduler {cluster.address}: expected at least one worker, got none in 1 s; "
        f"start some with 'dask worker {cluster.address}'"
    )


def test_a_worker_that_sees_other_files_is_told(cluster: Cluster, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as error:
        ClusterExecutor(cluster.address, tmp_path / "gone", tmp_path)
    assert str(error.value).partition(": ")[2] == (
        f"expected the folder of photos {tmp_path / 'gone'}, got no such folder there; "
        "share it between the hosts under the same path"
    )


def _demands(folder: Path, **changes: str) -> Demands:
    demands = Demands(photos=str(folder), out="/out", sign=str(folder), packages=tuple(versions().items()))
    return replace(demands, **changes)  # type: ignore[arg-type]


def test_what_is_wrong_with_a_worker(tmp_path: Path) -> None:
    assert fault_of_worker(_demands(tmp_path)) == ""
    assert fault_of_worker(_demands(tmp_path, sign="/proc/sign")) == (
        "expected to write to /out, got no such folder or no leave there; "
        "share it between the hosts under the same path"
    )
    older = replace(_demands(tmp_path), packages=(("pycolmap", "4.1.0"),))
    assert fault_of_worker(older) == (
        f"expected pycolmap 4.1.0 as here, got {versions()['pycolmap']}; install the same version"
    )
    assert _unable(ModuleNotFoundError("No module named 'sfm'")) == (
        f"expected cnnimretrieval {versions()['cnnimretrieval']} as here, got 'No module named 'sfm''; "
        "install it there"
    )


def test_a_worker_that_joins_later_is_counted_and_looked_at(
    photos: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("groundwork.cluster._SECONDS_BETWEEN_COUNTS", 0)
    (folder / "older").mkdir()
    # Of another version of numpy, as far as its packages tell.
    (folder / "older" / "numpy-1.0.dist-info").mkdir()
    (folder / "older" / "numpy-1.0.dist-info" / "METADATA").write_text("Name: numpy\nVersion: 1.0\n")
    with _cluster(folder, workers=1) as one, ClusterExecutor(one.address, photos, tmp_path) as executor:
        assert executor.slots == 1
        with _worker(folder, one.address, 40, first=folder / "older"):
            _wait_for(lambda: executor.slots == 41)
            assert window(executor) == 82
            slow = [executor.submit(time.sleep, 0.2) for _ in range(4)]
            with pytest.raises(RuntimeError) as error:
                _ = [task.result() for task in slow]
    assert str(error.value).partition(": ")[2] == (
        f"expected numpy {versions()['numpy']} as here, got 1.0; install the same version"
    )


def test_a_missing_dask_is_one_line(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ModuleNotFoundError) as error:
        ClusterExecutor("tcp://127.0.0.1:9", photos, tmp_path)
    assert str(error.value) == (
        "--scheduler: expected the package distributed, got none; pip install 'cnnimretrieval[cluster]'"
    )


def _wait_for(condition: Any, seconds: float = 600.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError("timed out")
