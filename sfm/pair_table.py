"""Tables of image pairs, one row a pair: what their columns are called, hold and mean.

They are plain DataFrames, so that ten million pairs fit into memory and every tool reads them. A pair is
proposed, planned into a block, matched, and trusted where its geometry says so; each step knows more of it.
"""

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int, Int32

ENDS = ("image_id1", "image_id2")
COLUMNS = {
    # The two images, the smaller number first.
    "image_id1": "int32",
    "image_id2": "int32",
    # Who proposed the pair, as in `sfm.candidates`: "vlad", "gps", ...; several are joined by "+".
    "origin": "category",
    # COLMAP's kind of two-view geometry, a key of `GEOMETRY_KINDS`.
    "geometry_kind": "int8",
    # Number of verified matches, 0 where verification failed; of trusted pairs those beside print.
    "inliers": "int32",
    # Where the inliers lie: number of the file of `sfm.matching`, and the pair's position in it; position -1
    # where the pair killed its worker and has none.
    "block": "int32",
    "row": "int32",
    # Number of the place that the pair belongs to.
    "place": "int32",
}
PROPOSED = (*ENDS, "origin")
PLANNED = (*PROPOSED, "block")
MATCHED = (*PROPOSED, "geometry_kind", "inliers", "block", "row")
TRUSTED = (*MATCHED, "place")
# What is a number in a table of matched pairs: those columns fit into one array.
NUMERIC = tuple(name for name in MATCHED if name != "origin")

GEOMETRY_KINDS = {
    0: "undefined",
    1: "degenerate",
    2: "calibrated",
    3: "uncalibrated",
    4: "planar",
    5: "panoramic",
    6: "planar or panoramic",
    7: "watermark",
    8: "multiple",
    9: "calibrated rig",
}
# Marks that both photos carry, such as a date or a frame, and no common place.
WATERMARK = 7
# All that is a geometry of the scene.
TRUSTED_KINDS = (2, 3, 4, 5, 6, 8, 9)


def pair_table(image_ids: Int[np.ndarray, "p 2"], **columns: Any) -> pd.DataFrame:
    """The table of these pairs with further `columns`, in the order given; a single value is that of all.

    Columns that have their type already are not copied.
    """
    return typed(pd.DataFrame(dict(zip(ENDS, image_ids.T, strict=True)) | columns, copy=False))


def typed(pairs: pd.DataFrame) -> pd.DataFrame:
    """The same table with every column in its type; KeyError for one that is not in `COLUMNS`."""
    return pairs.astype({name: COLUMNS[name] for name in map(str, pairs)})


def image_ids(pairs: pd.DataFrame) -> Int32[np.ndarray, "p 2"]:
    """The ids of both images of each pair."""
    return np.column_stack([pairs[name].to_numpy(dtype=np.int32) for name in ENDS])


def image_rows(pairs: pd.DataFrame) -> Int32[np.ndarray, "p 2"]:
    """The positions of both images of each pair in arrays that have a row for every image: id - 1."""
    rows = image_ids(pairs)
    rows -= 1  # in place: of ten million pairs a copy takes 80 MB
    return rows


def is_trusted(pairs: pd.DataFrame, min_inliers: int) -> "pd.Series[bool]":
    """Which pairs have a geometry of the scene and enough verified matches; not yet what filters say."""
    # By a table of the few kinds: of ten million pairs pandas' own isin takes 80 MB on the way.
    of_scene = np.isin(pairs["geometry_kind"].to_numpy(), TRUSTED_KINDS, kind="table")
    return (pairs["inliers"] >= min_inliers) & of_scene
