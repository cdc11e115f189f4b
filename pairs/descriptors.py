"""Descriptors of a collection from a folder of `extract`, in the order of a list of names."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from groundwork.files import read_json, read_table

# Pairs compared at a time: 64 MB of 2,048-D float32 descriptors, twice.
_BLOCK_PAIRS = 1 << 13


@dataclass(frozen=True, kw_only=True, eq=False)
class Descriptors:
    """Unit descriptors, memory-mapped; `row` says where that of each name is, -1 for none."""

    vectors: Float[np.ndarray, "m d"]
    row: Int[np.ndarray, " n"]

    def distances(
        self, first: Int[np.ndarray, " p"], second: Int[np.ndarray, " p"]
    ) -> Float[np.ndarray, " p"]:
        """L2 distances of pairs of names, by number; infinite where one has no descriptor."""
        distances = np.full(len(first), np.inf)
        a, b = self.row[first], self.row[second]
        known = np.flatnonzero((a >= 0) & (b >= 0))
        for start in range(0, len(known), _BLOCK_PAIRS):
            block = known[start : start + _BLOCK_PAIRS]
            scores = np.einsum("pd,pd->p", self.vectors[a[block]], self.vectors[b[block]])
            distances[block] = np.sqrt(np.clip(2.0 - 2.0 * scores, 0.0, None))
        return distances


def load_descriptors(folder: Path | None, names: Sequence[str]) -> Descriptors:
    """The descriptors that `extract` left in `folder`.

    FileNotFoundError when there are none, ValueError when they are of other photos.
    """
    if folder is None or not (folder / "vectors.npy").is_file() or not (folder / "images.parquet").is_file():
        raise FileNotFoundError(
            f"strategy m1: expected descriptors of the photos in pairs.descriptors, got {folder}; "
            "run extract on the photos and give its folder"
        )
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    images = read_table(folder / "images.parquet")
    whole = images.index[images["x1"].isna()] if "x1" in images else images.index
    row_of = pd.Series(whole, index=images["name"][whole])
    row = row_of[~row_of.index.duplicated()].reindex(list(names), fill_value=-1).to_numpy(dtype=np.int64)
    if (row < 0).all():
        raise ValueError(
            f"strategy m1: expected descriptors of the reconstructed photos, got others in {folder}; "
            "extract the folder that was reconstructed"
        )
    return Descriptors(vectors=vectors, row=row)


def descriptors_key(folder: Path | None) -> str | None:
    """Changes with the descriptors in a folder; None for no folder or an unfinished one."""
    path = None if folder is None else folder / "done" / "extract.json"
    if path is None or not path.is_file():
        return None
    key: str = read_json(path)["key"]
    return key
