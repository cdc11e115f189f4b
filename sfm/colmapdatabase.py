"""Databases that COLMAP wrote, read as they are: their verified pairs, by name.

They are SQLite files. Reading their tables, which are the same in every version of COLMAP, neither changes
the file, as opening it with COLMAP does, nor can it end the process.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd

# COLMAP numbers a pair of image ids by one integer: smaller * this + larger.
_MAX_IMAGES = 2147483647


def read_pairs(path: Path) -> pd.DataFrame:
    """Verified pairs of a database: `name1, name2, config` (COLMAP's kind of geometry), `inliers`.

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
        }
    )


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
