"""What a person at the command line gets to see when something goes wrong: one line and an exit code."""

import errno
import os
import re
from collections.abc import Sequence

import typer

from groundwork.names import printable

# How libraries that keep the system's error to themselves tell of a full disk: safetensors, numpy, torch.
_FULL_DISK = re.compile(r"No space left on device|\d+ requested and \d+ written|inline_container\.cc")

_LAYOUT = re.compile(r"\s*\n\s+| {2,}")

NAME = "cnnimretrieval"
FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 130


class UsageFault(ValueError):
    """Wrong usage or config, found before any work began; each of `lines` is one message."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines: Sequence[str] = lines


def exit_code(error: BaseException) -> int:
    """1 for work that failed, 2 for wrong usage or config, 130 for Ctrl-C."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    # The parser's own errors say whether they are about usage.
    known = error.exit_code if isinstance(error, typer.TyperException) else FAILED
    # A file where a folder is to be was named by whoever typed the command.
    return WRONG_USAGE if isinstance(error, UsageFault | NotADirectoryError) else known


def lines_of(error: BaseException) -> list[str]:
    """The error as lines to print, without a traceback: one, or one for each wrong setting."""
    if isinstance(error, UsageFault):
        return [_flat(line) for line in error.lines]
    if isinstance(error, typer.TyperException):
        return [_flat(error.format_message())]
    if isinstance(error, KeyboardInterrupt):
        return ["interrupted; run the same command again to continue"]
    if isinstance(error, OSError) and error.errno is not None:
        return [_flat(_system_error(error))]
    if _FULL_DISK.search(str(error)):
        return lines_of(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    if isinstance(error, ValueError | TypeError | FileNotFoundError | RuntimeError | OSError) and str(error):
        return [_flat(str(error))]
    what = ": ".join(filter(None, (f"unexpected {type(error).__name__}", str(error))))
    return [_flat(f"{what}; run it again with --debug to see where")]


def _system_error(error: OSError) -> str:
    """`<path>: expected ..., got ...; what to do` for an error that the operating system reported."""
    if error.strerror != os.strerror(error.errno or 0):
        return error.strerror or str(error)  # somebody has said it better already
    where = f"{error.filename}" if error.filename is not None else "the output folder"
    reason = error.strerror.lower()
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return f"{where}: expected free space on the disk, got '{reason}'; free some and run it again"
        case errno.EISDIR:
            return f"{where}: expected a file, got a folder; move it away and run it again"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return (
                f"{where}: expected leave to read and write, got '{reason}'; change it or take another folder"
            )
        case _:
            return f"{where}: {reason}"


def _flat(text: str) -> str:
    """One line. Indented lines are a library's layout; any other line break stands in the name of a file."""
    return printable(_LAYOUT.sub(" ", text.strip()))
