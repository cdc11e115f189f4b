"""One writer a folder: a lock that ends with the process that holds it, however that process ends."""

import errno
import json
import logging
import os
import shlex
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)

NAME = ".lock"
# The file never changes its size, whoever holds it: no one who compares sizes takes it for changed.
_LENGTH = 512
_TAKEN = (errno.EACCES, errno.EAGAIN)
_BINARY = getattr(os, "O_BINARY", 0)  # Windows rewrites the ends of lines without
# The kernel grants a process every lock that the process has already: it keeps its own list.
_mine: set[Path] = set()
_mine_lock = threading.Lock()


class FolderInUse(BlockingIOError):
    """Somebody else writes the folder; the text names who, and says what to do."""


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Make `folder` if it is missing and be the only one that writes it until the block ends.

    The lock is the kernel's (on `folder`/.lock, a POSIX record lock or that of Windows): a process that was
    killed holds none, children inherit none, and shared file systems pass it between machines. The file
    stays; it says who held it last. Nothing else in this process may open that file: closing it would give
    up the lock.

    Raises:
        FolderInUse: another process holds it, or another part of this one.
        NotADirectoryError: `folder`, or something above it, is a file.
        OSError: `folder` cannot be made or written, or its file system has no locks.

    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(
            f"{folder}: expected a folder to write to, got a file; choose another --out"
        ) from error
    resolved = folder.resolve()
    with _mine_lock:
        if resolved in _mine:
            raise FolderInUse(_advice(folder, "this very process", elsewhere=False))
        _mine.add(resolved)
    try:
        descriptor = _locked(folder)
        try:
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, json.dumps(_myself()).encode().ljust(_LENGTH))
            yield
        finally:
            os.close(descriptor)
    finally:
        _mine.discard(resolved)


def _locked(folder: Path) -> int:
    """The descriptor of the lock file, locked."""
    path = folder / NAME
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _BINARY, 0o644)
        try:
            _take(descriptor)
            if _is_still(path, descriptor):
                return descriptor
        except OSError as error:
            taken, text = error.errno in _TAKEN, _who(folder, descriptor)
            os.close(descriptor)
            if taken:
                raise FolderInUse(text) from error
            raise OSError(
                error.errno,
                f"{folder}: expected a file system with file locks, got '{error.strerror}'; "
                "mount it with locks or choose another folder",
            ) from error
        os.close(descriptor)


def _take(descriptor: int) -> None:
    """Lock an open file for this process; OSError when somebody has it, or when there are no locks."""
    if sys.platform == "win32":
        import msvcrt

        # Behind the text: nobody else can read what is locked there.
        os.lseek(descriptor, _LENGTH, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        return
    try:
        import fcntl
    except ImportError:
        logger.warning("this system has no file locks: see to it that nobody else writes the same folder")
        return
    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the file that was locked still has its name: somebody may just have deleted it."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _myself() -> dict[str, str | int]:
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]) if sys.argv[0] else ""
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": command if len(json.dumps(command)) <= 256 else f"{command[:60]}...",
    }


def _who(folder: Path, descriptor: int) -> str:
    """Who to wait for. The holder may not have written its name yet."""
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        holder = json.loads(os.read(descriptor, _LENGTH))
        command = f" ({holder['command']})" if holder.get("command") else ""
        who = f"process {holder['pid']} on {holder['host']}{command}, which writes it since {holder['since']}"
        elsewhere = holder["host"] != socket.gethostname()
    except (ValueError, KeyError, TypeError, AttributeError):
        who, elsewhere = "another process, which has just started to write it", False
    return _advice(folder, who, elsewhere=elsewhere)


def _advice(folder: Path, who: str, *, elsewhere: bool) -> str:
    # A file server may keep the lock of a machine that went away without a word.
    gone = f"; if that machine is gone for good, delete {folder / NAME}" if elsewhere else ""
    return (
        f"{folder}: expected a folder that nobody else writes, got one in use by {who}; "
        f"wait for it or choose another{gone}"
    )
