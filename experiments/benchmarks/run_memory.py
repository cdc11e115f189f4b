"""Peak memory of a whole `run` by stage, all its processes together: `run_memory PHOTOS --out WORK ...`.

All words are those of `cnnimretrieval run`. Its processes are looked at several times a second and when a
stage ends; pages that they share count once. What a library or the interpreter maps from files is told
apart from what was allocated. Peaks between two looks are missed, so the largest process's own peak, which
the kernel keeps, is told and judged as well. A stage that was done before tells little: take a new WORK.
Linux only.
"""

import re
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from experiments.benchmarks.measuring.measure import Claim, arguments, conclude, print_table
from experiments.benchmarks.measuring.pages import Pages, pages_of_family

_LIMIT_GB = 3.2
_SECONDS_BETWEEN_LOOKS = 0.25
# The line of the log that tells the end of a stage.
_ENDED = re.compile(r"^\[\d+/\d+\] (\w+):")
_ROW = "{:.2f}".format


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Peaks of each stage that ended, and the largest that one process had by the kernel's account."""

    stages: dict[str, Pages]
    largest_process_bytes: int
    exit_code: int


class Looks:
    """Looks at a process and all below it until it ends; tells the largest sight of each part."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._most = Pages()
        self._over = threading.Event()
        self._changing = threading.Lock()
        self._thread = threading.Thread(target=self._look_on)

    def __enter__(self) -> "Looks":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def take(self) -> Pages:
        """The largest sight since the last call; the parts share it, as one may be shorter than a pause."""
        seen = pages_of_family(self._pid)
        with self._changing:
            most, self._most = _larger(self._most, seen), seen
        return most

    def _look_on(self) -> None:
        while not self._over.wait(_SECONDS_BETWEEN_LOOKS):
            seen = pages_of_family(self._pid)
            with self._changing:
                self._most = _larger(self._most, seen)


def _larger(one: Pages, other: Pages) -> Pages:
    return max(one, other, key=lambda pages: pages.total)


def measure(words: Sequence[str]) -> Measured:
    """Run `cnnimretrieval run` with these words; its log is passed on as it comes."""
    command = [sys.executable, "-m", "experiments.cli", "run", *words]
    stages: dict[str, Pages] = {}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        with Looks(process.pid) as looks:
            for stage in _ends(process.stderr):
                stages[stage] = _larger(stages.get(stage, Pages()), looks.take())
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return Measured(stages=stages, largest_process_bytes=largest, exit_code=process.returncode)


def _ends(log: IO[str]) -> Iterator[str]:
    """The names of the stages as they end."""
    for line in log:
        sys.stderr.write(line)
        if ended := _ENDED.match(line):
            yield ended[1]


def main(words: Sequence[str] | None = None) -> int:
    """Run, print the peaks, and return the exit code: of the run, if it failed."""
    parser = arguments(__doc__)
    _, of_run = parser.parse_known_args(words)
    found = measure(of_run)
    if found.exit_code or not found.stages:
        return found.exit_code or 1
    rows = [
        (stage, *(_ROW(part / 1e9) for part in (peak.own, peak.mapped, peak.total)))
        for stage, peak in found.stages.items()
    ]
    print_table(("stage", "GB allocated", "GB of files", "GB together"), rows)
    most = max(peak.total for peak in found.stages.values())
    return conclude(
        [
            _below("all processes together, GB", most),
            _below("the largest process, GB", found.largest_process_bytes),
        ]
    )


def _below(what: str, measured_bytes: int) -> Claim:
    return Claim(what=what, measured=measured_bytes / 1e9, limit=_LIMIT_GB, at_least=False)


if __name__ == "__main__":
    sys.exit(main())
