"""How far long work has come: a bar in a terminal, a line a minute in a log, nothing unless asked for.

It is shown where the logger of this file lets INFO through, as the command line has it. A program that calls
our functions sees nothing before it asks for that.
"""

import logging
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

_IN_A_TERMINAL_S = 0.2
_IN_A_LOG_S = 60.0

logger = logging.getLogger(__name__)


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
        file=sys.stderr,
        disable=not logger.isEnabledFor(logging.INFO),
        mininterval=_IN_A_TERMINAL_S if terminal else _IN_A_LOG_S,
        # The number of steps between two looks at the clock is not guessed: a step may take a minute.
        miniters=1,
        delay=0.0 if terminal else _IN_A_LOG_S,
    )
