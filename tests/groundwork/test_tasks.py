import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

from groundwork.batches import Batch, BatchResult
from groundwork.child import LimitReached, Limits, WorkerDied
from groundwork.executors import Guarded, LocalExecutor, SerialExecutor
from groundwork.tasks import run_batches, usage

# Children import the functions they run, so these live in a module of their own.
_WORK = """
import os, signal
from pathlib import Path

def total(batch, folder):
    calls = Path(folder) / "calls"
    with calls.open("a") as file:
        file.write(f"{batch.name}:{','.join(map(str, batch.items))}\\n")
    if any(item < 0 for item in batch.items):
        os.kill(os.getpid(), signal.SIGKILL)
    path = Path(folder) / f"{batch.name}.txt"
    path.write_text(str(sum(batch.items)))
    return {"total": sum(batch.items)}, [path]

def die_once(batch, folder):
    seen = Path(folder) / "seen"
    if not seen.exists():
        seen.touch()
        os.abort()
    return {}, []

def no_space(batch):
    raise OSError(28, "No space left on device", "features")

def write_child_pid(path):
    import time
    Path(path).write_text(str(os.getpid()))
    time.sleep(3600)

def fill_or_total(batch, folder):
    megabytes = sum(1000 if item < 0 else 200 for item in batch.items)
    if megabytes > 500 and batch.limits.memory_bytes:
        fill(megabytes)
    return {"total": sum(batch.items)}, []

def note(batch, folder):
    import time
    path = Path(folder) / "moments"
    for word in ("start", "end"):
        with path.open("a") as file:
            print(word, file=file)
        time.sleep(0.2)
    return {}, []

def fill(megabytes):
    import time
    block = bytearray(megabytes * 1_000_000)
    time.sleep(3600)

def speak_and_abort():
    print("check failed: width", flush=True)
    os.abort()
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    folder = tmp_path_factory.mktemp("code")
    (folder / "work_of_tasks.py").write_text(_WORK)
    sys.path.insert(0, str(folder))
    try:
        yield __import__("work_of_tasks")
    finally:
        sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def local() -> Iterator[Executor]:
    with LocalExecutor(2) as executor:
        yield executor


class _Totals:
    """`total` with its folder, as a picklable callable."""

    def __new__(cls, work: ModuleType, folder: Path):  # type: ignore[no-untyped-def]
        return partial(work.total, folder=str(folder))


def _batches(*groups: Sequence[int]) -> list[Batch[int]]:
    return [
        Batch(name=f"b{number}", key=f"k{number}{items}", items=tuple(items))
        for number, items in enumerate(groups)
    ]


def _calls(folder: Path) -> list[str]:
    path = folder / "calls"
    return path.read_text().split() if path.exists() else []


def test_a_child_answers_raises_or_dies_alone(local: Executor, work: ModuleType) -> None:
    futures = [local.submit(math.factorial, 5), local.submit(math.factorial, -1), local.submit(os.abort)]
    spoken = local.submit(work.speak_and_abort)
    assert futures[0].result() == 120
    with pytest.raises(ValueError, match="not defined for negative values"):
        futures[1].result()
    with pytest.raises(WorkerDied, match=r"^worker was ended by SIGABRT$"):
        futures[2].result()
    with pytest.raises(WorkerDied, match=r"^worker was ended by SIGABRT: check failed: width$"):
        spoken.result()
    assert local.submit(math.factorial, 4).result() == 24


def test_an_exit_code_is_named(local: Executor) -> None:
    with pytest.raises(WorkerDied, match=r"^worker ended with exit code 3$"):
        local.submit(os._exit, 3).result()


def test_at_least_one_worker() -> None:
    with pytest.raises(ValueError, match="workers: expected at least 1, got 0; leave it out"):
        LocalExecutor(0)


def test_children_see_one_thread(local: Executor) -> None:
    assert local.submit(os.getenv, "OMP_NUM_THREADS").result() == "1"


@pytest.mark.parametrize("kind", ["serial", "local"])
def test_results_come_in_the_order_given(
    kind: str, local: Executor, work: ModuleType, tmp_path: Path
) -> None:
    executor = SerialExecutor() if kind == "serial" else local
    batches = _batches([1, 2], [3], [4, 5, 6])
    results = run_batches(_Totals(work, tmp_path), batches, tmp_path, executor, label="test")
    assert [result.facts for result in results] == [{"total": 3}, {"total": 3}, {"total": 15}]
    assert [result.outputs for result in results] == [(tmp_path / f"b{n}.txt",) for n in range(3)]
    assert all(result.quarantined == {} for result in results)


def test_what_is_done_is_not_done_again(work: ModuleType, tmp_path: Path) -> None:
    def run(batches: list[Batch[int]]) -> list[BatchResult]:
        return run_batches(_Totals(work, tmp_path), batches, tmp_path, SerialExecutor(), label="test")

    first = run(_batches([1, 2], [3]))
    assert run(_batches([1, 2], [3])) == first
    assert len(_calls(tmp_path)) == 2
    assert run(_batches([1, 2], [7]))[1].facts == {"total": 7}
    assert _calls(tmp_path)[2:] == ["b1:7"]
    (tmp_path / "b0.txt").unlink()
    run(_batches([1, 2], [7]))
    assert _calls(tmp_path)[3:] == ["b0:1,2"]


def test_poison_items_are_found_and_left_out(local: Executor, work: ModuleType, tmp_path: Path) -> None:
    batches = _batches([1, 2], [3, -1, 4, 5, -9])
    good, bad = run_batches(_Totals(work, tmp_path), batches, tmp_path, local, label="test")
    assert good.facts == {"total": 3}
    assert bad.facts == {"total": 12}
    assert (tmp_path / "b1.txt").read_text() == "12"
    assert bad.quarantined == {1: "worker was ended by SIGKILL", 4: "worker was ended by SIGKILL"}
    calls = len(_calls(tmp_path))
    again = run_batches(_Totals(work, tmp_path), batches, tmp_path, local, label="test")
    assert again == [good, bad]
    assert len(_calls(tmp_path)) == calls


def test_a_worker_that_dies_once_is_forgiven(local: Executor, work: ModuleType, tmp_path: Path) -> None:
    dying = partial(work.die_once, folder=str(tmp_path))
    (result,) = run_batches(dying, _batches([1, 2]), tmp_path, local, label="test")
    assert (result.quarantined, result.retries) == ({}, 1)


def test_a_task_is_ended_at_its_limits(local: Executor, work: ModuleType) -> None:
    late = local.submit(Guarded(fn=time.sleep, limits=Limits(seconds=0.5)), 3600)
    large = local.submit(Guarded(fn=work.fill, limits=Limits(memory_bytes=300_000_000)), 600)
    with pytest.raises(LimitReached, match=r"^took longer than its limit of 0\.5 s$"):
        late.result()
    with pytest.raises(LimitReached, match=r"^needed more memory than its limit of 0\.3 GB$"):
        large.result()


def test_an_item_beyond_its_limit_is_not_tried_again(
    local: Executor, work: ModuleType, tmp_path: Path
) -> None:
    # 1, 2, 3 and 4 take 200 MB each: each within the limit, all of them not.
    limits = Limits(memory_bytes=700_000_000)
    batches = [replace(batch, limits=limits) for batch in _batches([1, -5], [1, 2, 3, 4], [-7])]
    function = partial(work.fill_or_total, folder="")
    results = run_batches(function, batches, tmp_path, local, label="test")
    assert [result.facts["total"] for result in results] == [1, 10, 0]
    reason = "needed more memory than its limit of 0.7 GB"
    assert [result.quarantined for result in results] == [{1: reason}, {}, {0: reason}]
    assert usage(results)["retries"] == 0


def test_no_more_run_at_a_time_than_fit(work: ModuleType, tmp_path: Path) -> None:
    function = partial(work.note, folder=str(tmp_path))
    batches = [replace(batch, memory_bytes=600) for batch in _batches([1], [2], [3])]
    with LocalExecutor(3, memory_bytes=1000) as executor:
        run_batches(function, batches, tmp_path, executor, label="test")
    assert (tmp_path / "moments").read_text().split() == ["start", "end"] * 3


def test_what_a_stage_took(local: Executor, work: ModuleType, tmp_path: Path) -> None:
    batches = _batches([1, 2], [3, -1, 4])
    taken = usage(run_batches(_Totals(work, tmp_path), batches, tmp_path, local, label="test"))
    assert {name: taken[name] for name in ("tasks", "retries", "quarantined")} == {
        "tasks": 2,
        "retries": 1,
        "quarantined": 1,
    }
    assert 20e6 < taken["peak_bytes"] < 2e9
    assert taken["parent_peak_bytes"] > 20e6
    assert taken["cpu_seconds"] >= 0


def test_other_errors_end_the_run(local: Executor, work: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left on device"):
        run_batches(work.no_space, _batches([1], [2]), tmp_path, local, label="test")


def test_children_end_with_a_killed_parent(work: ModuleType, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = (
        "import sys; from groundwork.executors import LocalExecutor; import work_of_tasks\n"
        "LocalExecutor(1).submit(work_of_tasks.write_child_pid, sys.argv[1]).result()"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    parent = subprocess.Popen([sys.executable, "-c", script, str(pid_file)], env=environment)
    child = int(_wait_for(lambda: pid_file.exists() and pid_file.read_text()))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert _wait_for(lambda: not _runs(child))


def _runs(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _wait_for(condition, seconds: float = 600.0):  # type: ignore[no-untyped-def]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError("timed out")
