"""Descriptors of a collection from a folder of `extract`, in the order of a list of names."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from groundwork.arrays import slices
from groundwork.descriptor_folder import IMAGES, VECTORS, folder_key, read_descriptor_folder

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
        for part in slices(len(known), _BLOCK_PAIRS):
            block = known[part]
            scores = np.einsum("pd,pd->p", self.vectors[a[block]], self.vectors[b[block]])
            distances[block] = np.sqrt(np.clip(2.0 - 2.0 * scores, 0.0, None))
        return distances


def load_descriptors(folder: Path | None, names: Sequence[str]) -> Descriptors:
    """The descriptors that `extract` left in `folder`.

    FileNotFoundError when there are none, ValueError when they are damaged or of other photos.
    """
    if folder is None or not all((folder / name).is_file() for name in (VECTORS, IMAGES)):
        raise FileNotFoundError(
            f"strategy m1: expected descriptors of the photos in pairs.descriptors, got {folder}; "
            "run extract on the photos and give its folder"
        )
    found = read_descriptor_folder(folder)
    row = found.rows_of_photos(names)
    if (row < 0).all():
        raise ValueError(
            f"strategy m1: expected descriptors of the reconstructed photos, got others in {folder}; "
            "extract the folder that was reconstructed"
        )
    return Descriptors(vectors=found.vectors, row=row)


def descriptors_key(folder: Path | None) -> str | None:
    """Changes with the descriptors in a folder; None for no folder or one without descriptors."""
    return None if folder is None else folder_key(folder)
