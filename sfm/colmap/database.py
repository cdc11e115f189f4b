"""Databases that COLMAP wrote, read as they are: images, cameras, keypoints and verified pairs.

They are SQLite files. Reading their tables, which are the same in every version of COLMAP, neither changes
the file, as opening it with COLMAP does, nor can it end the process.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from jaxtyping import Float32, Shaped, UInt32

from sfm.colmap.files import NUM_CAMERA_PARAMS

# COLMAP numbers a pair of image ids by one integer: smaller * this + larger.
_MAX_IMAGES = 2147483647


@dataclass(frozen=True, kw_only=True, eq=False)
class ColmapDatabase:
    """What a database tells of its images and pairs, without their keypoints and inliers.

    Attributes:
        images: `image_id, name, camera_id, keypoints` (their number), by image_id.
        cameras: `camera_id, model` (COLMAP's number of it), `width, height, params` (bytes of float64),
            `known` (whether the focal length is more than a guess).
        pairs: every pair that was verified, also in vain: `pair_id, image_id1, image_id2` (the smaller
            first), `geometry_kind` and `inliers` as in `sfm.pair_table`, by pair_id.

    """

    images: pd.DataFrame
    cameras: pd.DataFrame
    pairs: pd.DataFrame


def read_database(path: Path) -> ColmapDatabase:
    """Read images, cameras and pairs.

    ValueError when it is no database, in use, or of a camera that this version of COLMAP does not know.
    """
    with _opened(path) as database:
        images = _table(
            database,
            "SELECT images.image_id, name, camera_id, coalesce(rows, 0) AS keypoints FROM images "
            "LEFT JOIN keypoints ON keypoints.image_id = images.image_id ORDER BY images.image_id",
        )
        cameras = _table(
            database,
            "SELECT camera_id, model, width, height, params, prior_focal_length AS known FROM cameras",
        )
        pairs = _table(
            database,
            "SELECT pair_id, config AS geometry_kind, rows AS inliers FROM two_view_geometries "
            "ORDER BY pair_id",
        )
    for camera_id, model, params in cameras[["camera_id", "model", "params"]].itertuples(index=False):
        expected = NUM_CAMERA_PARAMS[model] if 0 <= model < len(NUM_CAMERA_PARAMS) else -1
        if expected * 8 != len(params):
            raise ValueError(
                f"database {path}: expected cameras as this version of COLMAP knows them, got camera "
                f"{camera_id} of model {model} with {len(params) // 8} parameters; check the file"
            )
    ids = pairs["pair_id"].to_numpy(dtype=np.int64)
    pairs = pairs.assign(image_id1=ids // _MAX_IMAGES, image_id2=ids % _MAX_IMAGES)
    return ColmapDatabase(images=images, cameras=cameras, pairs=pairs)


def read_pairs(path: Path) -> pd.DataFrame:
    """Verified pairs of a database: `name1, name2`, and `geometry_kind, inliers` as in `sfm.pair_table`.

    ValueError as for `read_database`.
    """
    found = read_database(path)
    name = found.images.set_index("image_id")["name"]
    pairs = found.pairs[found.pairs["inliers"] > 0]
    named = pairs.assign(name1=pairs["image_id1"].map(name), name2=pairs["image_id2"].map(name))
    return named[["name1", "name2", "geometry_kind", "inliers"]].dropna().reset_index(drop=True)


def read_keypoints(path: Path, image_ids: Iterable[int]) -> Iterator[Float32[np.ndarray, "n 4"]]:
    """Yield the keypoints of images: x, y (pixels, centre of the first at .5), scale, orientation in radians.

    COLMAP stores x and y alone, or with scale and orientation, or with an affine shape, as it does itself.
    """
    with _opened(path) as database:
        for image_id in image_ids:
            row = database.execute("SELECT rows, cols, data FROM keypoints WHERE image_id = ?", (image_id,))
            found = row.fetchone() or (0, 2, b"")
            yield _shapes(_matrix(path, f"keypoints of image {image_id}", found, np.float32))


def read_inliers(path: Path, first: int, last: int) -> Iterator[tuple[int, UInt32[np.ndarray, "n 2"]]]:
    """Yield pair_id and inliers of all pairs from one pair_id to another: rows of both images' keypoints."""
    with _opened(path) as database:
        rows = database.execute(
            "SELECT pair_id, rows, cols, data FROM two_view_geometries WHERE pair_id BETWEEN ? AND ? "
            "ORDER BY pair_id",
            (first, last),
        )
        for pair_id, *stored in rows:
            yield pair_id, _matrix(path, f"inliers of pair {pair_id}", tuple(stored), np.uint32)


def database_stamp(path: Path) -> list[int]:
    """Bytes and time of the last change of the file and of what COLMAP has not moved into it yet."""
    log = path.with_name(f"{path.name}-wal")
    parts = [path, log] if log.is_file() and log.stat().st_size else [path]
    return [number for part in parts for number in (part.stat().st_size, part.stat().st_mtime_ns)]


def _table(database: sqlite3.Connection, query: str) -> pd.DataFrame:
    cursor = database.execute(query)
    return pd.DataFrame(cursor.fetchall(), columns=[column[0] for column in cursor.description])


def _matrix(
    path: Path, what: str, stored: tuple[Any, ...], dtype: type[np.generic]
) -> Shaped[np.ndarray, "n k"]:
    rows, columns, data = stored
    found = np.frombuffer(data or b"", dtype=np.uint8)
    expected = rows * columns * np.dtype(dtype).itemsize
    if len(found) != expected:
        raise ValueError(
            f"database {path}: expected {expected} bytes of {what}, got {len(found)}; check the file"
        )
    return found.view(dtype).reshape(rows, max(columns, 2) if not rows else columns)


def _shapes(stored: Float32[np.ndarray, "n k"]) -> Float32[np.ndarray, "n 4"]:
    xy = stored[:, :2]
    if stored.shape[1] == 4:
        return stored
    if stored.shape[1] < 6:
        return np.column_stack([xy, np.ones_like(xy[:, 0]), np.zeros_like(xy[:, 0])])
    a11, a12, a21, a22 = stored[:, 2:6].T
    scale = (np.hypot(a11, a21) + np.hypot(a12, a22)) / 2
    return np.column_stack([xy, scale, np.arctan2(a21, a11)])


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    if not path.is_file():
        raise ValueError(f"database {path}: expected a COLMAP database, got no such file; check the path")
    # Where nothing can be written nobody else does, and SQLite cannot leave its marks either.
    constant = "" if os.access(path.parent, os.W_OK) else "&immutable=1"
    address = f"file:{quote(str(path.resolve()))}?mode=ro{constant}"
    try:
        with closing(sqlite3.connect(address, uri=True)) as database:
            yield database
    except sqlite3.Error as error:
        remedy = "wait until COLMAP has closed it" if "locked" in str(error) else "check the file"
        raise ValueError(
            f"database {path}: expected a COLMAP database that can be read, got '{error}'; {remedy}"
        ) from error
