"""Databases that COLMAP wrote, read as they are: images, keypoints and verified pairs, by name.

They are SQLite files. Reading their tables, which are the same in every version of COLMAP, neither changes
the file, as opening it with COLMAP does, nor can it end the process.
"""

import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
from jaxtyping import Float32, UInt32

# COLMAP numbers a pair of image ids by one integer: smaller * this + larger.
_MAX_IMAGES = 2147483647
_DOUBLE = np.dtype("<f8")


@dataclass(frozen=True, kw_only=True)
class StoredImage:
    """An image of a database.

    Attributes:
        name: of the photo, relative to the folder that COLMAP was given.
        width: of its camera in pixels; so is `height`.
        focal_px: NaN unless the database calls it known.
        keypoints: x, y, scale, orientation in radians; scale 1 and orientation 0 where there are none.

    """

    name: str
    width: int
    height: int
    focal_px: float
    keypoints: Float32[np.ndarray, "n 4"]


def read_images(path: Path) -> Iterator[StoredImage]:
    """Yield the images of a database, by name. ValueError when it is none, or in use."""
    query = (
        "SELECT name, width, height, params, prior_focal_length, rows, cols, data FROM images "
        "JOIN cameras USING (camera_id) LEFT JOIN keypoints USING (image_id) ORDER BY name"
    )
    with _opened(path) as database:
        for name, width, height, params, is_known, rows, cols, data in database.execute(query):
            # Every camera model of COLMAP has a focal length as its first parameter.
            focal_px = float(np.frombuffer(params, _DOUBLE)[0]) if is_known else math.nan
            stored = np.frombuffer(data or b"", "<f4").reshape(rows or 0, cols or 2)
            yield StoredImage(
                name=name, width=width, height=height, focal_px=focal_px, keypoints=_oriented(stored)
            )


def read_pairs(path: Path) -> pd.DataFrame:
    """Verified pairs of a database: `name1, name2, config` (COLMAP's kind of geometry), `inliers`, `pair_id`.

    ValueError when it is no database, or in use.
    """
    with _opened(path) as database:
        names = dict(database.execute("SELECT image_id, name FROM images"))
        found = database.execute(
            "SELECT pair_id, config, rows FROM two_view_geometries WHERE rows > 0 ORDER BY pair_id"
        ).fetchall()
    table = pd.DataFrame(found, columns=["pair_id", "config", "inliers"], dtype=np.int64)
    ids = table["pair_id"].to_numpy()
    return pd.DataFrame(
        {
            "name1": [names[image_id] for image_id in (ids // _MAX_IMAGES).tolist()],
            "name2": [names[image_id] for image_id in (ids % _MAX_IMAGES).tolist()],
            "config": table["config"],
            "inliers": table["inliers"],
            "pair_id": ids,
        }
    )


def read_inliers(path: Path, pair_ids: list[int]) -> Iterator[UInt32[np.ndarray, "n 2"]]:
    """Yield the inliers of pairs: rows of the keypoints of image 1 and 2, in the order given."""
    with _opened(path) as database:
        for pair_id in pair_ids:
            query = "SELECT rows, cols, data FROM two_view_geometries WHERE pair_id = ?"
            rows, cols, data = database.execute(query, (pair_id,)).fetchone()
            yield np.frombuffer(data, "<u4").reshape(rows, cols)


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    if not path.is_file():
        raise ValueError(f"database {path}: expected a COLMAP database, got no such file; check the path")
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro", uri=True)) as database:
            yield database
    except sqlite3.Error as error:
        remedy = "wait until COLMAP has closed it" if "locked" in str(error) else "check the file"
        raise ValueError(
            f"database {path}: expected a COLMAP database that can be read, got '{error}'; {remedy}"
        ) from error


def _oriented(stored: Float32[np.ndarray, "n c"]) -> Float32[np.ndarray, "n 4"]:
    """Keypoints of 2, 4 or 6 columns (x, y and nothing, scale and orientation, or an affine shape)."""
    keypoints = np.zeros((len(stored), 4), dtype=np.float32)
    keypoints[:, :2], keypoints[:, 2] = stored[:, :2], 1.0
    if stored.shape[1] == 4:
        keypoints[:, 2:] = stored[:, 2:]
    elif stored.shape[1] == 6:
        a11, a12, a21, a22 = stored[:, 2:].T
        keypoints[:, 2] = (np.hypot(a11, a21) + np.hypot(a12, a22)) / 2
        keypoints[:, 3] = np.arctan2(a21, a11)
    return keypoints
