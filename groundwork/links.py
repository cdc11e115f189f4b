"""Second names for files that are replaced whole and never written into: a copy that takes no room."""

import os
import shutil
from pathlib import Path

from groundwork.files import atomic_path


def share(source: Path, target: Path) -> None:
    """Give a file, or every file of a folder, a second name at `target`; what stood there is replaced.

    Whoever writes one anew, as `groundwork.files.atomic_path` does, leaves the other as it is. Names that
    begin with a dot belong to who works there, and are left out.
    """
    with atomic_path(target) as unfinished:
        if source.is_dir():
            shutil.copytree(source, unfinished, copy_function=link, ignore=shutil.ignore_patterns(".*"))
        else:
            link(source, unfinished)


def link(source: str | Path, target: str | Path) -> None:
    """A second name for one file; a copy where the disk knows none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
