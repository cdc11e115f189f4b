import platform
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from groundwork.memory import MemoryBudget, usable_bytes

MEMINFO = "MemTotal:       16000000 kB\nMemAvailable:   10000000 kB\n"


def _machine(root: Path, cgroup: str, files: dict[str, str]) -> tuple[Path, Path]:
    for path, text in {"proc/meminfo": MEMINFO, "proc/self/cgroup": cgroup, **files}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root / "proc", root / "cgroup"


@pytest.mark.parametrize(
    ("cgroup", "files", "free"),
    [
        ("0::/\n", {}, 10_000_000 * 1024),
        (
            "0::/a/b\n",
            {
                "cgroup/a/b/memory.max": "max\n",
                "cgroup/a/b/memory.current": "7\n",
                "cgroup/a/b/memory.stat": "inactive_file 3\n",
                "cgroup/a/memory.max": "2000000\n",
                "cgroup/a/memory.current": "900000\n",
                "cgroup/a/memory.stat": "anon 1\ninactive_file 400000\n",
            },
            1_500_000,
        ),
        (
            "9:name=systemd:/x\n4:cpu,memory:/a\n",
            {
                "cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
                "cgroup/memory/memory.usage_in_bytes": "5\n",
                "cgroup/memory/memory.stat": "total_inactive_file 0\n",
                "cgroup/memory/a/memory.limit_in_bytes": "3000000\n",
                "cgroup/memory/a/memory.usage_in_bytes": "1000000\n",
                "cgroup/memory/a/memory.stat": "inactive_file 1\ntotal_inactive_file 500000\n",
            },
            2_500_000,
        ),
    ],
)
def test_the_tightest_limit_counts(tmp_path: Path, cgroup: str, files: dict[str, str], free: int) -> None:
    assert usable_bytes(*_machine(tmp_path, cgroup, files)) == int(0.9 * free)


def test_this_machine_has_memory() -> None:
    assert usable_bytes() > 0


def test_tasks_wait_their_turn() -> None:
    budget, told = MemoryBudget(100), []

    def work(name: str, wanted: int, until: threading.Event) -> None:
        with budget.reserve(wanted):
            told.append(name)
            until.wait()

    events = {name: threading.Event() for name in ("first", "huge", "small")}
    threads = []
    for name, wanted in (("first", 60), ("huge", 500), ("small", 10)):
        threads.append(threading.Thread(target=work, args=(name, wanted, events[name])))
        threads[-1].start()
        while len(told) + len(budget._queue) < len(threads):
            time.sleep(0.01)
    assert told == ["first"]  # the small one would fit, but the huge one was there before
    events["first"].set()
    while len(told) < 2:
        time.sleep(0.01)
    assert told == ["first", "huge"]  # alone: it would never fit
    for event in events.values():
        event.set()
    for thread in threads:
        thread.join()
    assert told == ["first", "huge", "small"]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep what they like")
def test_freed_memory_is_given_back_although_some_between_is_in_use():
    script = """
import os
import numpy as np
from groundwork.memory import give_back

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

arrays = [np.ones(100_000, np.uint8) for _ in range(2000)]
kept = arrays[::10]
del arrays
before = resident()
give_back()
print(before - resident())
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert int(told) > 100_000_000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep what they like")
def test_freed_memory_is_given_back_once_the_process_has_grown_by_more_than_the_slack():
    script = """
import numpy as np
from groundwork.memory import Slack

def holes():
    arrays = [np.ones(100_000, np.uint8) for _ in range(1500)]
    return arrays[::10]

slack = Slack(100_000_000)
told = [slack.settle()]
kept = [np.ones(60_000_000, np.uint8)]
told.append(slack.settle())  # less than the slack
kept += holes()
told.append(slack.settle())
told.append(slack.settle())  # what is in use is not counted again
kept.append(np.ones(150_000_000, np.uint8))
told.append(slack.settle())  # more, although nothing was freed
kept.pop()
told.append(slack.settle())
kept += holes()
told.append(slack.settle())  # counted from where it was smallest, not from what was in use before
print(told)
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert told == "[False, False, True, False, True, False, True]\n"
