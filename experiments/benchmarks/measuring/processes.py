"""The processes that a command started, as the kernel lists them; among them those that run its tasks."""

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path


def await_tasks(parents: Sequence[int], command: "subprocess.Popen[str]") -> dict[int, list[int]]:
    """Of each process that runs tasks, theirs, once one does; nothing when the command ended before."""
    while True:
        found = {parent: tasks for parent in parents if (tasks := _tasks(parent))}
        if found or command.poll() is not None:
            return found
        time.sleep(0.002)


def family(pid: int) -> list[int]:
    """A process and all that it started, they too."""
    return [pid, *(member for child in _children(pid) for member in family(child))]


def _tasks(pid: int) -> list[int]:
    """The processes that run a task of this one: the children of its fork server."""
    servers = [child for child in _children(pid) if "forkserver" in _words(child)]
    return [child for server in servers for child in _children(server)]


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            continue
        if parent == pid:
            found.append(int(stat.parent.name))
    return found


def _words(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
