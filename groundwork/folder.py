"""Every file below a folder, with what tells whether it changed, or why it cannot be read."""

import os
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pandas as pd

_COLUMNS = {"name": "str", "size": "int64", "modified_ns": "int64", "reason": "str"}
# Rows that are Python objects at a time, on their way into the table's columns.
_ROWS = 65_536


def list_files(folder: Path, leave_out: Path) -> pd.DataFrame:
    """All files below `folder` by name: `name, size (bytes), modified_ns, reason`.

    Names are relative to `folder`. `reason` is empty for what is a file to be read, else size and time are 0.
    Links to files are followed, links to folders are listed. The folder `leave_out`, absolute and without
    links, is not entered.
    """
    files = _walk(folder, leave_out)
    parts = [_table([])]
    while rows := list(islice(files, _ROWS)):
        parts.append(_table(rows))
    return pd.concat(parts).sort_values("name", ignore_index=True)


def _table(rows: list[tuple[str, int, int, str]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(_COLUMNS)).astype(_COLUMNS)


def _walk(top: Path, leave_out: Path) -> Iterator[tuple[str, int, int, str]]:
    unreadable: list[OSError] = []
    for folder, subfolders, files in os.walk(top, onerror=unreadable.append):
        root = Path(folder)
        subfolders[:] = [sub for sub in subfolders if (root / sub).resolve() != leave_out]
        for sub in subfolders:
            if (root / sub).is_symlink():
                yield _name(root / sub, top), 0, 0, "link to a folder"
        for file in files:
            yield _examine(root / file, top)
    for error in unreadable:
        yield _name(Path(error.filename), top), 0, 0, f"cannot be read: {error.strerror}"


def _examine(path: Path, top: Path) -> tuple[str, int, int, str]:
    name = _name(path, top)
    if name != path.relative_to(top).as_posix():
        return name, 0, 0, "name is not UTF-8"
    try:
        facts = path.stat()
    except OSError as error:
        return name, 0, 0, f"cannot be read: {error.strerror}"
    if not stat.S_ISREG(facts.st_mode):
        return name, 0, 0, "not a regular file"
    return name, facts.st_size, facts.st_mtime_ns, ""


def _name(path: Path, top: Path) -> str:
    # Bytes that are no UTF-8 come as lone surrogates, which no table can hold: they are shown as \xNN.
    return os.fsencode(path.relative_to(top).as_posix()).decode("utf-8", "backslashreplace")
