"""The folder models/<k>: the models of all components in one order, and models.parquet, one row for each."""

import errno
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from groundwork.files import atomic_path, write_table

# What os.link raises where a file system has no hard links, or allows no more of them to one file.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EXDEV, errno.EMLINK, errno.ENOSYS, errno.EACCES)
_COLUMNS = {
    "model": "int64",
    "place": "int64",
    "part": "int64",
    "way": "str",
    "images": "int64",
    "registered_share": "float64",
    "points": "int64",
    "track_length": "float64",
    "observations": "float64",
    "reprojection_error_px": "float64",
    "seconds": "float64",
}


@dataclass(frozen=True, kw_only=True)
class FoundModel:
    """A finished model: its folder, place and part, and `sfm.mapper.ModelFacts` as plain values."""

    folder: Path
    place: int
    part: int
    facts: dict[str, Any]


def assemble(found: Sequence[FoundModel], out: Path) -> int:
    """Make `out`/models and `out`/models.parquet of these models, in place of older ones; return how many.

    Models are numbered by falling number of images, equal ones as given. Files are hard links to the found
    ones, or copies where the file system has no links.
    """
    ordered = sorted(found, key=lambda model: -model.facts["images"])
    with atomic_path(out / "models") as unfinished:
        unfinished.mkdir()
        for number, model in enumerate(ordered):
            shutil.copytree(model.folder, unfinished / str(number), copy_function=_link)
    rows = [
        {"model": number, "place": each.place, "part": each.part} | each.facts
        for number, each in enumerate(ordered)
    ]
    write_table(out / "models.parquet", pd.DataFrame(rows, columns=list(_COLUMNS)).astype(_COLUMNS))
    return len(ordered)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copy2(source, target)
