"""One writer a folder: a lock that ends with the process that holds it, however that process ends."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments.faults import UsageFault

NAME = ".lock"
# The file never changes its size, whoever holds it: no one who compares sizes takes it for changed.
_LENGTH = 256


class FolderInUse(RuntimeError):
    """Another process writes the folder."""


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Create `folder` and be the only process that writes it until the block ends.

    The lock is the kernel's (POSIX record lock on `folder/.lock`): a process that was killed holds none,
    children inherit none, and shared file systems pass it between machines. The file stays; it says who held
    it last. Nothing else in this process may open that file: closing it would give up the lock.

    Raises:
        FolderInUse: another process holds it; the message names that process.
        UsageFault: `folder` is a file.
        OSError: `folder` cannot be created or written.

    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageFault(
            f"{folder}: expected a folder to write to, got a file; choose another --out"
        ) from error
    descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FolderInUse(_who(folder, descriptor)) from error
        os.pwrite(descriptor, json.dumps(_myself()).encode().ljust(_LENGTH), 0)
        yield
    finally:
        os.close(descriptor)


def _myself() -> dict[str, str | int]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}


def _who(folder: Path, descriptor: int) -> str:
    """Who to wait for. The holder may not have written its name yet."""
    try:
        holder = json.loads(os.pread(descriptor, _LENGTH, 0))
        who = f"process {holder['pid']} on {holder['host']}, which writes it since {holder['since']}"
    except (ValueError, KeyError):
        who = "another process, which has just started to write it"
    return (
        f"{folder}: expected a folder that nobody else writes, got one in use by {who}; "
        "wait for it or choose another"
    )
