"""Times of contenders that take turns, and the verdict on a claim: what every benchmark prints at its end."""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from groundwork.executors import usable_cores

T = TypeVar("T")
KINDS = ("wall", "cpu")


@dataclass(frozen=True, kw_only=True)
class Took:
    """Wall-clock and processor seconds of one piece of work, child processes included."""

    wall: float
    cpu: float


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A measured value and the limit that it must keep."""

    what: str
    measured: float
    limit: float
    at_least: bool

    @property
    def holds(self) -> bool:
        """Whether the limit is kept; never of a value that is no number."""
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        verdict = "holds" if self.holds else "MISSED"
        return f"{verdict}: {self.what}: {self.measured:.4g} (goal {sign} {self.limit:g})"


def timed(work: Callable[[], T]) -> tuple[T, Took]:
    """The result of `work`, and what it took."""
    wall, cpu = time.perf_counter(), _cpu_seconds()
    result = work()
    return result, Took(wall=time.perf_counter() - wall, cpu=_cpu_seconds() - cpu)


def take_turns(contenders: Mapping[str, Callable[[], T]], repeats: int) -> dict[str, list[tuple[T, Took]]]:
    """Results and times of every contender in each of `repeats` rounds; every other round goes backwards.

    A machine that slows down or speeds up meanwhile does so to all of them alike.
    """
    found: dict[str, list[tuple[T, Took]]] = {name: [] for name in contenders}
    for number in range(repeats):
        order = list(contenders)[:: 1 if number % 2 == 0 else -1]
        for name in order:
            print(f"round {number + 1} of {repeats}: {name} ...", file=sys.stderr)
            found[name].append(timed(contenders[name]))
    return found


def median(rounds: Sequence[tuple[T, Took]], kind: str) -> float:
    """Median seconds of some rounds, `kind` being "wall" or "cpu"."""
    return statistics.median(took.wall if kind == "wall" else took.cpu for _, took in rounds)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A Markdown table, the columns after the first to the right."""
    print(f"| {' | '.join(header)} |\n|{'---|' + '---:|' * (len(header) - 1)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def print_times(found: Mapping[str, Sequence[tuple[T, Took]]]) -> None:
    """A row for each contender: medians, and how far the rounds lie apart."""
    rows = []
    for name, rounds in found.items():
        walls = [took.wall for _, took in rounds]
        medians = (f"{median(rounds, kind):.2f}" for kind in KINDS)
        rows.append((name, *medians, f"{min(walls):.2f}-{max(walls):.2f}"))
    print_table(("contender", "wall s, median", "cpu s, median", "wall s, range"), rows)


def conclude(claims: Sequence[Claim]) -> int:
    """Print the verdicts with the machine they were measured on; 0 if all hold, else 1."""
    print()
    for claim in claims:
        print(claim)
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"{usable_cores()} cores; load of the last 1, 5 and 15 minutes {load}, this benchmark included: "
        "other work makes the ranges above wide."
    )
    return 0 if all(claim.holds for claim in claims) else 1


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the benchmark's own description."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_kind(parser: argparse.ArgumentParser) -> None:
    """Let the caller choose by which seconds the claims are judged."""
    parser.add_argument(
        "--judge",
        dest="kind",
        choices=KINDS,
        default=KINDS[0],
        help="by wall-clock or processor seconds; the latter on a machine that does other work [%(default)s]",
    )


def _cpu_seconds() -> float:
    """Processor time of this process, its children, and the children they have waited for.

    Tasks run as grandchildren, below a server that forks them: what the system counts as our children's
    leaves them out while the server lives. Without /proc only ended children are counted.
    """
    own = os.times()
    return own.user + own.system + own.children_user + own.children_system + _living_children()


def _living_children() -> float:
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in parentheses, may hold blanks; after it: state, parent, ..., four times at 11 to 14.
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if int(fields[1]) == os.getpid():
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")
