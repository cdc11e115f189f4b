"""How far long work has come: a bar in a terminal, a line a minute in a log, nothing unless asked for.

It is shown where the logger of this file lets INFO through, as the command line has it. A program that calls
our functions sees nothing before it asks for that.
"""

import logging
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from tqdm import tqdm

_IN_A_TERMINAL_S = 0.2
_IN_A_LOG_S = 60.0

_LINE = "{desc}: {n_fmt} of {total_fmt}, {elapsed} so far, {remaining} left, {rate_fmt}"

logger = logging.getLogger(__name__)


class _Log:
    """Stderr that is no terminal: each state of a bar as a line of its own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._counted = ""

    def write(self, text: str) -> None:
        """Write what is more than a return of the cursor, and counts more than the line before.

        A bar that is closed shows once more what its last step may have shown.
        """
        counted = text.strip().rsplit(",", 3)[0]  # of _LINE, without times and rate
        if counted not in ("", self._counted):
            self._stream.write(f"{text.strip()}\n")
            self._counted = counted

    def flush(self) -> None:
        """As the stream does."""
        self._stream.flush()


def progress(
    items: Iterable[Any] | None = None,
    *,
    desc: str,
    unit: str,
    total: int | None = None,
    initial: int = 0,
    unit_scale: bool = False,
) -> "tqdm[Any]":
    """`items` with their progress on stderr, or without them a bar to be updated.

    In a log the first line comes after a minute: short work leaves none.
    """
    terminal = sys.stderr.isatty()
    return tqdm(
        items,
        desc=desc,
        unit=unit,
        total=total,
        initial=initial,
        unit_scale=unit_scale,
        file=sys.stderr if terminal else _Log(sys.stderr),
        bar_format=None if terminal else _LINE,
        disable=not logger.isEnabledFor(logging.INFO),
        mininterval=_IN_A_TERMINAL_S if terminal else _IN_A_LOG_S,
        # The number of steps between two looks at the clock is not guessed: a step may take a minute.
        miniters=1,
        delay=0.0 if terminal else _IN_A_LOG_S,
    )
