"""Which files of a collection are used as photos, and under which image_id: a known photo keeps its own."""

import logging

import numpy as np
import pandas as pd
from jaxtyping import Int, Shaped

logger = logging.getLogger(__name__)

# Rows that are Python objects at a time, on their way out of a table's column.
_ROWS = 65_536


def number(files: pd.DataFrame, before: pd.DataFrame) -> pd.DataFrame:
    """Give each file its status and each usable photo its image_id."""
    known_id = _known_ids(files, before)
    # Of equal files a known one is used, else the first by name.
    sound = np.flatnonzero(files["reason"] == "")
    sound = sound[np.argsort(known_id[sound] == 0, kind="stable")]
    _, first, group = np.unique(digests(files["sha256"])[sound], return_index=True, return_inverse=True)
    used_row = np.full(len(files), -1)
    used_row[sound] = sound[first[group]]
    used = used_row == np.arange(len(files))
    image_id, new = np.where(used, known_id, 0), used & (known_id == 0)
    image_id[new] = known_id.max(initial=0) + 1 + np.arange(int(new.sum()))
    copies = np.flatnonzero((used_row >= 0) & ~used)
    reason = files["reason"].copy()
    reason.iloc[copies] = "same bytes as " + files["name"].iloc[used_row[copies]].to_numpy()
    status = pd.array(["rejected", "duplicate", "usable"], dtype="str")
    return files.assign(
        status=status.take((used_row >= 0).astype(np.int64) + used), reason=reason, image_id=image_id
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
    reason.iloc[copies] = "near-copy of " + files["name"].iloc[originals].to_numpy()
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


def _known_ids(files: pd.DataFrame, before: pd.DataFrame) -> Int[np.ndarray, " n"]:
    """The image_id each file has already, 0 for new ones; all 0 where a known photo is gone or changed."""
    known = before.loc[before["image_id"] > 0, ["name", "sha256", "image_id"]]
    columns = ["name", "sha256"]
    ids = files[columns].merge(known, how="left", on=columns)["image_id"] if len(known) else None
    if ids is None or int(ids.notna().sum()) < len(known):
        if ids is not None:
            logger.info("scan: known photos are gone or changed; all photos are numbered afresh")
        return np.zeros(len(files), dtype=np.int64)
    return ids.fillna(0).to_numpy(dtype=np.int64)
