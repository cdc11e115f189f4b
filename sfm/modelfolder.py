"""The folder models/<k>: the models of all components in one order, and models.parquet, one row for each."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from groundwork.files import atomic_path, write_table
from groundwork.links import link
from sfm.model import ARRAYS

MODELS = "models"
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
    with atomic_path(out / MODELS) as unfinished:
        unfinished.mkdir()
        for number, model in enumerate(ordered):
            shutil.copytree(model.folder, unfinished / str(number), copy_function=link)
    rows = [
        {"model": number, "place": each.place, "part": each.part} | each.facts
        for number, each in enumerate(ordered)
    ]
    write_table(out / "models.parquet", pd.DataFrame(rows, columns=list(_COLUMNS)).astype(_COLUMNS))
    return len(ordered)


def arrays_of_models(sfm: Path) -> list[Path]:
    """The arrays of every model of a reconstruction, by the models' numbers."""
    folders = [folder for folder in (sfm / MODELS).glob("*") if folder.name.isdecimal()]
    return [folder / ARRAYS for folder in sorted(folders, key=lambda folder: int(folder.name))]
