"""How much memory is left for work, and who may take it: tasks are let in only as long as they fit."""

import mmap
import os
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Left for this process and for what the estimates get wrong.
_SHARE = 0.9
# Taken for free where the system does not tell.
_UNTOLD_BYTES = 4_000_000_000
_PROC = Path("/proc")
# psutil is installed where Linux is not, and may be of a system that has not what it looks for.
_NOT_TOLD = (ImportError, AttributeError, OSError)


class MemoryBudget:
    """A number of bytes shared by threads, each of which holds a part of it while its task runs."""

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self._used = 0
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, wanted_bytes: int) -> Iterator[None]:
        """Wait in line until `wanted_bytes` are free, and hold them in the block.

        Whoever wants more than there is at all waits until it is alone: it may still fit, for estimates are
        estimates. First come, first served, so that large tasks are not passed by small ones for ever.
        """
        turn = object()

        def fits() -> bool:
            free = self.total_bytes - self._used
            return self._queue[0] is turn and (not self._used or wanted_bytes <= free)

        with self._changed:
            self._queue.append(turn)
            self._changed.wait_for(fits)
            self._queue.popleft()
            self._used += wanted_bytes
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._used -= wanted_bytes
                self._changed.notify_all()


def usable_bytes(proc: Path = _PROC, cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Memory that work may take now: what is free on the machine, or less in a container, less a tenth.

    Limits of control groups are respected, version 1 and 2, with those of the groups around. Page cache
    counts as free. Where the system tells nothing, 4 GB are taken for free.
    """
    free = [_free_in_group(group) for group in _groups_around(proc, cgroups)]
    return int(_SHARE * min([_on_machine("MemAvailable", "available", proc) or _UNTOLD_BYTES, *free]))


def installed_bytes() -> int:
    """Memory of the machine, 0 where the system does not tell."""
    return _on_machine("MemTotal", "total")


def resident_bytes(pid: int | None) -> int:
    """Memory that a process takes now, shared libraries included; 0 where there is none."""
    if pid is None:
        return 0
    with suppress(OSError, IndexError):
        return int((_PROC / str(pid) / "statm").read_text().split()[1]) * mmap.PAGESIZE
    return _told_of_process(pid, "rss")


def give_back() -> None:
    """Return what was freed to the system. Allocators keep it, up to half of what large tables took.

    Arrow's pool and glibc's heap; where the C library is another one, the pool alone.
    """
    # Whoever has tables has loaded it; to children that have none its import would cost more than their work.
    arrow = sys.modules.get("pyarrow")
    if arrow is not None:
        arrow.default_memory_pool().release_unused()
    with suppress(ImportError, AttributeError, OSError, TypeError):
        import ctypes

        ctypes.CDLL(None).malloc_trim(0)


class Slack:
    """Keeps what allocators hold of freed memory below a bound, while this process works.

    Between tensors of many sizes holes remain, which come to more than what is in use. To give them back at
    once would cost more time than work does, for most of them are filled again. One for all that a process
    does: what it keeps count of is the memory of the process.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._least_bytes: int | None = None

    def settle(self) -> bool:
        """Call `give_back` if this process has grown by more than the bound; whether it had.

        It counts from where the process was smallest since the last time.
        """
        resident = resident_bytes(os.getpid())
        if self._least_bytes is None or resident < self._least_bytes:
            self._least_bytes = resident
        if resident - self._least_bytes <= self._most_bytes:
            return False
        give_back()
        self._least_bytes = resident_bytes(os.getpid())
        return True


def peak_bytes() -> int:
    """Resident memory of this process at its peak, 0 where the system does not tell."""
    with suppress(ImportError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
    return _told_of_process(os.getpid(), "peak_wset")


def _on_machine(name: str, elsewhere: str, proc: Path = _PROC) -> int:
    """A line of Linux's meminfo; on other systems, what psutil has under the name `elsewhere`."""
    with suppress(OSError):
        lines = (proc / "meminfo").read_text().splitlines()
        kibibytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
        return 1024 * kibibytes[name]
    with suppress(*_NOT_TOLD):
        import psutil

        return int(getattr(psutil.virtual_memory(), elsewhere))
    return 0


def _told_of_process(pid: int, name: str) -> int:
    """What psutil has of the memory of a process."""
    with suppress(*_NOT_TOLD):
        import psutil

        with suppress(psutil.Error):
            return int(getattr(psutil.Process(pid).memory_info(), name))
    return 0


def _groups_around(proc: Path, cgroups: Path) -> Iterator[Path]:
    """The control group of this process and all around it, as far as they can be seen from here."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root = cgroups
        elif "memory" in controllers.split(","):
            root = cgroups / "memory"
        else:
            continue
        group = root / path.lstrip("/")
        yield group
        while group != root:
            group = group.parent
            yield group


def _free_in_group(group: Path) -> float:
    """Bytes below the limit of a control group; infinity where it has none."""
    for limit_file, usage_file, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            limit = (group / limit_file).read_text().strip()
            used = int((group / usage_file).read_text())
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        return float("inf") if limit == "max" else max(0, int(limit) - used + int(stat.get(cache, 0)))
    return float("inf")
