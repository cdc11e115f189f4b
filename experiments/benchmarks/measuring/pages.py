"""Memory of a process with all that it started, as the kernel accounts it: own pages and those of files."""

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from experiments.benchmarks.measuring.processes import family


@dataclass(frozen=True, kw_only=True)
class Pages:
    """Bytes in memory, pages that processes share counted once.

    Attributes:
        own: that belong to no file: what was allocated.
        mapped: of files, libraries among them, and shared memory; the kernel takes most of them back where
            memory is short.

    """

    own: int = 0
    mapped: int = 0

    @property
    def total(self) -> int:
        """Of both kinds."""
        return self.own + self.mapped


def pages_of_family(pid: int) -> Pages:
    """The memory of a process and all below it now; nothing of those that are gone."""
    own = mapped = 0
    for member in family(pid):
        with suppress(OSError):
            told = Path(f"/proc/{member}/smaps_rollup").read_text()
            own += _kibibytes(told, "Pss_Anon")
            mapped += _kibibytes(told, "Pss_File") + _kibibytes(told, "Pss_Shmem")
    return Pages(own=1024 * own, mapped=1024 * mapped)


def _kibibytes(told: str, name: str) -> int:
    """The number on the line of that name; 0 where there is none, as of a process that has just ended."""
    found = re.search(rf"^{name}: +(\d+) kB$", told, re.MULTILINE)
    return int(found[1]) if found else 0
