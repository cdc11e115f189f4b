"""Names of files and what is said of them, as text for tables, terminals and logs."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path


def as_text(name: str) -> str:
    r"""`name` of a file, as Python has it, with bytes that are no UTF-8 shown as \xNN."""
    # Python holds such bytes as lone surrogates, which no table can.
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def name_below(path: Path, top: Path) -> str:
    """The name of a file below `top`: its POSIX path from there, as `as_text`."""
    return as_text(path.relative_to(top).as_posix())


def printable(text: str) -> str:
    r"""`text` for a terminal or a log, on one line: control and direction characters as \n, \x1b, \u202e."""
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8, as in `as_text`
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def counted(reasons: Iterable[str], most: int = 3) -> str:
    """The most frequent reasons with their numbers, as `12 truncated, 3 empty`."""
    numbers = Counter(reasons).most_common()
    more = [f"{sum(number for _, number in numbers[most:])} for other reasons"] if numbers[most:] else []
    return ", ".join([f"{number} {reason}" for reason, number in numbers[:most]] + more)
