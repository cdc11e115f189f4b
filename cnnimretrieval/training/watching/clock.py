"""Where the time of a training goes: seconds of each part, by the clock and of the processor."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from torch.profiler import record_function

from groundwork.files import read_json, write_json

NAME = "profile.json"
Part = Literal[
    "other", "start", "mine", "read", "forward", "backward", "move", "score", "keep", "whiten and prove"
]


class Spent(NamedTuple):
    """Seconds by the clock, and of the processor, that of all threads of this process."""

    wall_s: float = 0.0
    processor_s: float = 0.0


class Clock:
    """Counts the seconds of parts; those of a part inside another count for the inner one only."""

    def __init__(self) -> None:
        self._spent: dict[Part, Spent] = {}
        self._running: list[Part] = ["other"]
        self._since = _now()

    @contextmanager
    def part(self, name: Part) -> Iterator[None]:
        """What happens in here counts for `name`, and is called so in a trace."""
        self._count()
        self._running.append(name)
        try:
            with record_function(name):
                yield
        finally:
            self._count()
            self._running.pop()

    def read(self) -> Mapping[Part, Spent]:
        """The seconds so far."""
        self._count()
        return dict(self._spent)

    def _count(self) -> None:
        now, running = _now(), self._running[-1]
        spent = self._spent.get(running, Spent())
        self._spent[running] = Spent(
            spent.wall_s + now.wall_s - self._since.wall_s,
            spent.processor_s + now.processor_s - self._since.processor_s,
        )
        self._since = now


def _now() -> Spent:
    return Spent(time.perf_counter(), time.process_time())


def write_profile(out: Path, spent: Mapping[Part, Spent]) -> None:
    """Write the seconds of each part to profile.json."""
    rounded = {name: Spent(*(round(value, 3) for value in one))._asdict() for name, one in spent.items()}
    write_json(out / NAME, rounded)


def read_profile(out: Path) -> Mapping[Part, Spent]:
    """What `write_profile` wrote; nothing where it did not."""
    if not (out / NAME).is_file():
        return {}
    return {name: Spent(**one) for name, one in read_json(out / NAME).items()}


def as_table(spent: Mapping[Part, Spent]) -> str:
    """The parts with their seconds and shares, the longest first."""
    whole = sum(one.wall_s for one in spent.values()) or 1.0
    lines = [f"{'part':<18}{'seconds':>10}{'share':>8}{'processor':>12}"]
    for name, one in sorted(spent.items(), key=lambda item: -item[1].wall_s):
        lines.append(f"{name:<18}{one.wall_s:>10.1f}{one.wall_s / whole:>8.1%}{one.processor_s:>12.1f}")
    return "\n".join(lines)
