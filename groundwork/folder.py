"""The one walker: every file below a folder, with what tells whether it changed, or why it cannot be read."""

import os
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pandas as pd

from groundwork import lock
from groundwork.files import UNFINISHED
from groundwork.names import name_below

_COLUMNS = {"name": "str", "size": "int64", "modified_ns": "int64", "reason": "str"}
# Rows that are Python objects at a time, on their way into the table's columns.
_ROWS = 65_536

_Row = tuple[str, int, int, str]
_Identity = tuple[int, int]


def list_files(folder: Path, leave_out: Path | None = None) -> pd.DataFrame:
    """All files below `folder` by name: `name, size (bytes), modified_ns, reason`.

    Names are relative to `folder`. `reason` is empty for what is a file to be read, else size and time are 0.
    Links are followed, but no folder is entered twice: not the folder around a link, nor what lies below
    `folder` under its own name or behind a link that comes earlier; such links are listed with the reason.
    What we write ourselves is left out: `leave_out`, other folders with the results of a stage, locks.
    """
    rows = _Walk(folder, leave_out).rows()
    parts = [_table([])]
    while block := list(islice(rows, _ROWS)):
        parts.append(_table(block))
    return pd.concat(parts).sort_values("name", ignore_index=True)


def usable_names(files: pd.DataFrame) -> list[str]:
    """The names of the files to be read in a table of `list_files`."""
    names: list[str] = files.loc[files["reason"] == "", "name"].tolist()
    return names


def reasons_by_name(files: pd.DataFrame) -> dict[str, str]:
    """Why the others cannot be read."""
    others = files[files["reason"] != ""]
    return dict(zip(others["name"].tolist(), others["reason"].tolist(), strict=True))


def _table(rows: list[_Row]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(_COLUMNS)).astype(_COLUMNS)


class _Walk:
    """One walk: the folder itself first, then what its links lead to, in order of name."""

    def __init__(self, top: Path, leave_out: Path | None) -> None:
        self._top = top
        self._ours = _identity(leave_out)
        self._around = {_identity(folder) for folder in top.resolve().parents}
        self._entered: set[_Identity | None] = set()
        self._links: list[Path] = []

    def rows(self) -> Iterator[_Row]:
        """The rows in any order."""
        yield from self._tree(self._top)
        while self._links:
            links, self._links = sorted(self._links), []
            for link in links:
                yield from self._behind(link)

    def _behind(self, link: Path) -> Iterator[_Row]:
        found = _identity(link)
        if found in self._around:
            yield self._passed_over(link, "link to a folder around this one")
        elif found in self._entered:
            yield self._passed_over(link, "link to a folder that is searched already")
        elif not self._is_ours(link, found):
            yield from self._tree(link)

    def _tree(self, start: Path) -> Iterator[_Row]:
        unreadable: list[OSError] = []
        self._entered.add(_identity(start))
        for folder, subfolders, files in os.walk(start, onerror=unreadable.append):
            root = Path(folder)
            entered = []
            for sub in subfolders:
                path = root / sub
                if path.is_symlink():
                    self._links.append(path)
                    continue
                found = _identity(path)
                if self._is_ours(path, found):
                    continue
                if found in self._entered and found is not None:
                    yield self._passed_over(path, "folder that is searched already")
                    continue
                self._entered.add(found)
                entered.append(sub)
            subfolders[:] = entered
            for file in files:
                if file != lock.NAME and not file.startswith(UNFINISHED):
                    yield _examine(root / file, self._top)
        for error in unreadable:
            yield self._passed_over(Path(error.filename), f"cannot be read: {error.strerror}")

    def _is_ours(self, folder: Path, found: _Identity | None) -> bool:
        """Whether it is the one to be left out, or a stage wrote there: its lock and records lie in it."""
        if found is not None and found == self._ours:
            return True
        return os.path.isfile(folder / lock.NAME) and any((folder / "done").glob("*.json"))

    def _passed_over(self, path: Path, reason: str) -> _Row:
        return name_below(path, self._top), 0, 0, reason


def _identity(folder: Path | None) -> _Identity | None:
    """What is equal for two paths to one folder; None where there is none."""
    if folder is None:
        return None
    try:
        facts = folder.stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


def _examine(path: Path, top: Path) -> _Row:
    name = name_below(path, top)
    if name != path.relative_to(top).as_posix():
        return name, 0, 0, "name is not UTF-8"
    try:
        facts = path.stat()
    except OSError as error:
        return name, 0, 0, f"cannot be read: {error.strerror}"
    if not stat.S_ISREG(facts.st_mode):
        return name, 0, 0, "not a regular file"
    return name, facts.st_size, facts.st_mtime_ns, ""
