"""A folder of descriptors as `extract` writes it: read for all who use one, checked once, in the same way.

Row r of vectors.npy belongs to row r of images.parquet: a name, and where it has one the box (x1, y1, x2, y2)
that was described. A row with a box describes a part and never stands for its photo. Of several rows for one
whole photo the first counts. Where `extract` left its done record, it tells whether vectors and names still
belong together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from groundwork.files import open_array, read_json, read_table
from groundwork.keys import key_of
from groundwork.records import read_done
from groundwork.shards import blocks

STAGE = "extract"
VECTORS = "vectors.npy"
IMAGES = "images.parquet"
REJECTED = "rejected.parquet"
META = "meta.json"
VERSION = 1
BOX = ("x1", "y1", "x2", "y2")

# Rounding of float32 and float16 stays far below; vectors that were never normalised far above.
LENGTH_TOLERANCE = 1e-2
_BLOCK = 16384
_REMEDY = "extract the photos again"


@dataclass(frozen=True, kw_only=True, eq=False)
class DescriptorFolder:
    """Finite unit rows, memory-mapped, and what each describes: `name, x1, y1, x2, y2`, NaN without a box."""

    vectors: Float[np.ndarray, "n d"]
    images: pd.DataFrame

    @property
    def whole_photos(self) -> Int[np.ndarray, " w"]:
        """The rows that describe whole photos; of several for one photo the first."""
        whole = self.images[self.images["x1"].isna()]
        return whole.index[~whole["name"].duplicated()].to_numpy(dtype=np.int64)

    def rows_of_photos(self, names: Sequence[str]) -> Int[np.ndarray, " m"]:
        """The row that describes each whole photo, -1 for one that none describes."""
        rows = self.whole_photos
        row_of = pd.Series(rows, index=self.images["name"].iloc[rows])
        return row_of.reindex(list(names), fill_value=-1).to_numpy(dtype=np.int64)


def read_descriptor_folder(folder: Path) -> DescriptorFolder:
    """The descriptors in `folder`; all of them are read once.

    FileNotFoundError when there are none. ValueError, which names the file, when one is damaged, of another
    kind or version, or not as `extract` left it; nothing in a file is executed.
    """
    for name in (VECTORS, IMAGES):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"descriptors {folder}: expected the file {name}, got none; extract the photos first"
            )
    _check_version(folder / META)
    read_done(folder, STAGE, remedy=_REMEDY)
    vectors = _read_vectors(folder / VECTORS)
    images = _read_images(folder / IMAGES)
    if len(images) != len(vectors):
        raise ValueError(
            f"descriptors {folder}: expected as many names as vectors, got {len(images)} and {len(vectors)}; "
            f"{_REMEDY}"
        )
    _check_rows(vectors, images, folder / VECTORS)
    return DescriptorFolder(vectors=vectors, images=images)


def folder_key(folder: Path) -> str | None:
    """Changes with the descriptors in a folder: the key of what made them, else of its files; None for none.

    ValueError when the files are not as `extract` left them.
    """
    record = read_done(folder, STAGE, remedy=_REMEDY)
    if record is not None:
        return record.key
    files = [folder / name for name in (VECTORS, IMAGES)]
    if not all(path.is_file() for path in files):
        return None
    return key_of(*([path.stat().st_size, path.stat().st_mtime_ns] for path in files))


def unit_rows(vectors: Float[np.ndarray, "n d"]) -> Bool[np.ndarray, " n"]:
    """Which rows are finite and of length 1, as far as 16-bit rounding tells."""
    with np.errstate(over="ignore", invalid="ignore"):
        length = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
        found: Bool[np.ndarray, " n"] = np.abs(length - 1.0) <= LENGTH_TOLERANCE
    return found


def _check_version(path: Path) -> None:
    if not path.exists():
        return
    meta: Any = read_json(path, _REMEDY)
    version = meta.get("version") if isinstance(meta, dict) else None
    if version != VERSION or isinstance(version, bool):
        raise ValueError(f"descriptors {path}: expected version {VERSION}, got {version!r}; {_REMEDY}")


def _read_vectors(path: Path) -> Float[np.ndarray, "n d"]:
    vectors = open_array(path, _REMEDY)
    if vectors.ndim != 2 or not vectors.shape[1] or not np.issubdtype(vectors.dtype, np.floating):
        raise ValueError(
            f"descriptors {path}: expected real vectors (n, d), got {vectors.dtype} of shape "
            f"{vectors.shape}; {_REMEDY}"
        )
    return vectors


def _read_images(path: Path) -> pd.DataFrame:
    images = read_table(path, remedy=_REMEDY)
    if "name" not in images:
        raise ValueError(f"descriptors {path}: expected a column 'name', got none; {_REMEDY}")
    for row, name in enumerate(images["name"]):
        if not isinstance(name, str) or not name:
            raise ValueError(f"descriptors {path}: expected a name in row {row}, got {name!r}; {_REMEDY}")
    if not set(BOX) & set(images.columns):
        return images.assign(**dict.fromkeys(BOX, np.nan))
    for side in BOX:
        if side not in images or not pd.api.types.is_float_dtype(images[side]):
            got = images[side].dtype if side in images else "none"
            raise ValueError(
                f"descriptors {path}: expected a column of floats '{side}', got {got}; {_REMEDY}"
            )
    sides = images[list(BOX)].to_numpy(np.float64)
    proper = (sides[:, 0] < sides[:, 2]) & (sides[:, 1] < sides[:, 3]) & np.isfinite(sides).all(axis=1)
    wrong = np.flatnonzero(~proper & ~np.isnan(sides).all(axis=1))
    if len(wrong):
        box = ",".join(f"{side:g}" for side in sides[wrong[0]])
        raise ValueError(
            f"descriptors {path}: expected x1 < x2 and y1 < y2 in row {wrong[0]}, got {box}; {_REMEDY}"
        )
    return images


def _check_rows(vectors: Float[np.ndarray, "n d"], images: pd.DataFrame, path: Path) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        for first, block in blocks(vectors, _BLOCK):
            wrong = np.flatnonzero(~unit_rows(block))
            if len(wrong):
                row = int(wrong[0])
                raise ValueError(
                    f"descriptors {path}: expected finite vectors of length 1, got "
                    f"{np.linalg.norm(block[row]):.4g} for '{images['name'][first + row]}'; {_REMEDY}"
                )
