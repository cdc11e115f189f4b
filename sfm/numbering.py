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
