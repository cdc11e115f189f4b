"""Which files of a collection are used as photos, and under which image_id: a known photo keeps its own.

A photo is its bytes. Names and folders decide neither numbers nor the order in which photos are worked on:
the same photos under other names give the same models.
"""

import logging

import numpy as np
import pandas as pd
from jaxtyping import Int, Shaped

logger = logging.getLogger(__name__)

# How the reason against a near-copy begins; the name of the photo that is used follows.
COPY_OF = "near-copy of "
# Rows that are Python objects at a time, on their way out of a table's column.
_ROWS = 65_536


def number(files: pd.DataFrame, before: pd.DataFrame) -> pd.DataFrame:
    """Give each file its status and each usable photo its image_id."""
    known = before[before["image_id"] > 0].sort_values("image_id")
    # Of equal files the one that was used before is used, else the first by name.
    sound = np.flatnonzero(files["reason"] == "")
    was_used = files["name"].isin(known["name"]).to_numpy()[sound]
    sound = sound[np.argsort(~was_used, kind="stable")]
    photos, first, group = np.unique(digests(files["sha256"])[sound], return_index=True, return_inverse=True)
    used_row = np.full(len(files), -1)
    used_row[sound] = sound[first[group]]
    image_id = np.zeros(len(files), dtype=np.int64)
    image_id[sound[first]] = _image_ids(photos, digests(known["sha256"]))
    copies = np.flatnonzero((used_row >= 0) & (image_id == 0))
    reason = files["reason"].copy()
    reason.iloc[copies] = "same bytes as " + files["name"].iloc[used_row[copies]].to_numpy()
    status = pd.array(["rejected", "duplicate", "usable"], dtype="str")
    return files.assign(
        status=status.take((used_row >= 0).astype(np.int64) + (image_id > 0)),
        reason=reason,
        image_id=image_id,
    )


def by_precedence(files: pd.DataFrame, before: pd.DataFrame) -> tuple[Int[np.ndarray, " k"], int]:
    """Rows of the usable photos, those first that are kept before others, and how many were known before.

    After the known ones come the large, those whose lens is known, those in many bytes; names do not matter.
    """
    image_id = files["image_id"].to_numpy()
    rows = np.argsort(image_id, kind="stable")[np.count_nonzero(image_id == 0) :]
    sha256, known = digests(files["sha256"].iloc[rows]), before[before["image_id"] > 0]
    num_known = len(known)
    if not np.array_equal(sha256[:num_known], digests(known.sort_values("image_id")["sha256"])):
        num_known = 0
    new = files.iloc[rows[num_known:]]
    pixels = new["width"].to_numpy() * new["height"].to_numpy()
    no_lens, size = new["focal_px"].isna().to_numpy(), new["size"].to_numpy()
    order = np.lexsort((sha256[num_known:], -size, no_lens, -pixels))
    return np.concatenate([rows[:num_known], rows[num_known:][order]]), num_known


def without_copies(
    files: pd.DataFrame, copies: Int[np.ndarray, " c"], originals: Int[np.ndarray, " c"]
) -> pd.DataFrame:
    """The files with some rows told as near-copies of others, and with the numbers closed up behind them."""
    reason, status = files["reason"].copy(), files["status"].copy()
    reason.iloc[copies] = COPY_OF + files["name"].iloc[originals].to_numpy()
    status.iloc[copies] = "duplicate"
    image_id = files["image_id"].to_numpy(copy=True)
    image_id[copies] = 0
    used = np.flatnonzero(image_id)
    image_id[used[np.argsort(image_id[used])]] = np.arange(1, len(used) + 1)
    return files.assign(status=status, reason=reason, image_id=image_id)


def digests(sha256: "pd.Series[str]") -> Shaped[np.ndarray, " n"]:
    """The hex digits as bytes, which are compared and sorted without an object for each."""
    starts = range(0, len(sha256), _ROWS)
    parts = [sha256.iloc[start : start + _ROWS].to_numpy(dtype="S64") for start in starts]
    return np.concatenate([np.empty(0, dtype="S64"), *parts])


def rank_by_content(sha256: Shaped[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The place of each photo in the order of their digests: the one order that every stage works in.

    In a collection that has not grown it is image_id - 1.
    """
    rank = np.empty(len(sha256), dtype=np.int64)
    rank[np.argsort(sha256, kind="stable")] = np.arange(len(sha256))
    return rank


def _image_ids(photos: Shaped[np.ndarray, " n"], known: Shaped[np.ndarray, " k"]) -> Int[np.ndarray, " n"]:
    """A number for each of the sorted photos: that of a known one, and the next ones for the others.

    `known` are the photos of the numbers 1, 2, ...; where one of them is gone, none counts.
    """
    image_id = np.zeros(len(photos), dtype=np.int64)
    place = np.searchsorted(photos, known)
    if len(known) <= len(photos) and (photos[np.minimum(place, len(photos) - 1)] == known).all():
        image_id[place] = np.arange(1, len(known) + 1)
    else:
        logger.info("scan: known photos are gone or changed; all photos are numbered afresh")
    new = image_id == 0
    image_id[new] = image_id.max(initial=0) + 1 + np.arange(int(new.sum()))
    return image_id
