"""Reconstructions killed at random moments: `python -m experiments.benchmarks.faults [--moments 20]`.

A small rendered collection is reconstructed with two workers at a time. At a random moment (up to 0.3 s after
some task, drawn at random, has begun, and as soon as a task runs) a SIGKILL hits one child process that runs
a task, or the whole command, or a worker of a Dask cluster of two that runs one, and is replaced. A command
that was killed is run again. The result must have the hash of a run that was left alone, and what is done
again must be one task, or where the command was killed one task for each worker.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from experiments.benchmarks.measuring.fingerprint import Fingerprint, fingerprint
from experiments.benchmarks.measuring.localcluster import LocalCluster
from experiments.benchmarks.measuring.measure import Claim, conclude, print_table
from experiments.benchmarks.measuring.processes import await_tasks
from experiments.demo.collection import DemoConfig, render_collection
from experiments.engine import Engine
from groundwork.executors import guarded
from sfm.reconstruct import ReconstructConfig, reconstruct

WORKERS = 2
_MAX_DELAY = 0.3
VICTIMS = ("child", "command", "cluster")
_COLLECTION = DemoConfig(
    places=3, min_views=5, max_views=6, unrelated=2, twins=False, width=400, height=300, px_per_m=32
)


@dataclass(frozen=True, kw_only=True)
class Run:
    """How a reconstruction ended: its hashes, the tasks that were begun in all, its seconds."""

    found: Fingerprint
    begun: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One reconstruction that was hit: when, whether it came to the same result, the tasks done again.

    The moment is `delay` seconds after the beginning of task number `task`, or the next one at which a task
    runs; `hit` is False where none did until the end.
    """

    victim: str
    task: int
    delay: float
    hit: bool
    same: bool
    again: int


class NotingExecutor(Executor):
    """Notes the beginning of a task's work in a file, a line each; leaves the rest to another executor.

    A task that finds its work recorded as done, as those whose answer was lost with a worker do, begins none.
    """

    def __init__(self, executor: Executor, notes: Path) -> None:
        self._executor = executor
        self._notes = notes

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Queue `fn`."""
        # run_batches hands over what does the work as the first argument, except in the search for poison.
        if args and callable(args[0]):
            work, *others = args
            return self._executor.submit(fn, partial(_noted, str(self._notes), work), *others, **kwargs)
        task = guarded(fn)
        noted = replace(task, fn=partial(_noted, str(self._notes), task.fn))
        return self._executor.submit(noted, *args, **kwargs)


def render(folder: Path) -> Path:
    """Render the photos and return their folder."""
    render_collection(folder, _COLLECTION)
    return folder / "photos"


def unbroken(photos: Path, out: Path) -> Run:
    """A run that nothing happens to."""
    started = time.monotonic()
    with _started(photos, out) as command:
        _finish(command)
    return Run(found=fingerprint(out), begun=_begun(out), seconds=time.monotonic() - started)


def strike(victim: str, photos: Path, out: Path, alone: Run, chance: random.Random) -> Fault:
    """Reconstruct with a blow at a random moment, and to the end."""
    task, delay = chance.randint(1, alone.begun), chance.uniform(0.0, _MAX_DELAY)
    with ExitStack() as stack:
        cluster = stack.enter_context(LocalCluster(out, WORKERS)) if victim == "cluster" else None
        command = stack.enter_context(_started(photos, out, cluster.address if cluster else None))
        while _begun(out) < task and command.poll() is None:
            time.sleep(0.002)
        time.sleep(delay)
        servers = cluster.workers if cluster else [command.pid]
        running = await_tasks(servers, command)
        if victim == "command":
            command.send_signal(signal.SIGKILL)
            command.communicate()
            time.sleep(0.3)  # its children end by themselves
            command = stack.enter_context(_started(photos, out))
        elif cluster is not None and running:
            cluster.replace_worker(chance.choice(sorted(running)))
        elif running:
            with suppress(ProcessLookupError):
                os.kill(
                    chance.choice([child for children in running.values() for child in children]),
                    signal.SIGKILL,
                )
        _finish(command)
    again, same = _begun(out) - alone.begun, fingerprint(out) == alone.found
    return Fault(victim=victim, task=task, delay=round(delay, 3), hit=bool(running), same=same, again=again)


def allowed(victim: str) -> int:
    """Tasks that may be done again."""
    return WORKERS if victim == "command" else 1


@contextmanager
def _started(photos: Path, out: Path, scheduler: str | None = None) -> "Iterator[subprocess.Popen[str]]":
    # Not by -m: what tasks run must be importable, and __main__ is not.
    start = "import sys; from experiments.benchmarks.faults import main; sys.exit(main())"
    words = [sys.executable, "-c", start, "--reconstruct", str(photos), str(out), scheduler or ""]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as command:
        yield command


def _finish(command: "subprocess.Popen[str]") -> None:
    said = command.communicate()[1]
    if command.returncode:
        raise RuntimeError(f"reconstruct: expected exit code 0, got {command.returncode}; it said {said}")


def _reconstruct(photos: Path, out: Path, scheduler: str) -> None:
    engine = Engine(workers=WORKERS, scheduler=scheduler or None)
    with engine.open(photos, out) as executor:
        reconstruct(photos, out, ReconstructConfig(), NotingExecutor(executor, _notes(out)))


def _noted(notes: str, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    with open(notes, "a") as file:
        file.write("begun\n")
    return fn(*args, **kwargs)


def _notes(out: Path) -> Path:
    return out.with_name(f"{out.name}-notes")


def _begun(out: Path) -> int:
    return len(_notes(out).read_text().splitlines()) if _notes(out).exists() else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a row for each victim; exit code 1 where a result differs or too much is done again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=20, help="blows for each kind of victim")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and victims")
    parser.add_argument("--reconstruct", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.reconstruct:
        words = given.reconstruct
        _reconstruct(Path(words[0]), Path(words[1]), words[2])
        return 0
    claims, rows = [], []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        photos = render(folder / "collection")
        alone = unbroken(photos, folder / "alone")
        for victim in VICTIMS:
            faults, started = [], time.monotonic()
            for number in range(given.moments):
                chance = random.Random(f"{given.seed} {victim} {number}")
                faults.append(strike(victim, photos, folder / f"{victim}-{number}", alone, chance))
                print(faults[-1], file=sys.stderr)
            same = sum(fault.same for fault in faults)
            hit = sum(fault.hit for fault in faults)
            again = max(fault.again for fault in faults)
            mean = sum(fault.again for fault in faults) / len(faults)
            seconds = (time.monotonic() - started) / len(faults)
            numbers = (len(faults), hit, same, f"{mean:.2f}", again, f"{seconds:.1f}")
            rows.append((victim, *map(str, numbers)))
            claims.append(
                Claim(what=f"{victim}: equal results", measured=same, limit=len(faults), at_least=True)
            )
            claims.append(
                Claim(what=f"{victim}: tasks again", measured=again, limit=allowed(victim), at_least=False)
            )
    print(f"{alone.begun} tasks in {alone.seconds:.1f} s")
    header = ("killed", "times", "hit a task", "same hash", "tasks again, mean", "most", "seconds each")
    print_table(header, rows)
    return conclude(claims)


if __name__ == "__main__":
    sys.exit(main())
