"""In a task: the best photos of a folder of descriptors. No torch here: a task loads nothing else."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from cnnimretrieval.search.index import open_index
from cnnimretrieval.search.photo_rows import ByPhoto, PhotoRows
from groundwork.descriptor_folder import BOX, read_descriptor_folder
from groundwork.top_k import Nearest


class Found(NamedTuple):
    """A photo, or the box of it that was described, with its inner product."""

    name: str
    score: float
    box: tuple[float, ...] | None


def best_of(
    folder: Path, vectors: Float[np.ndarray, "q d"], top: int, network: str, *, has_regions: bool
) -> list[list[Found]]:
    """The `top` best of the folder for each query, by its index where it has one, else exactly.

    With regions they are photos, each with the best of its rows. The descriptors are checked as ever; those
    of another fingerprint than `network` are refused.
    """
    store = read_descriptor_folder(folder)
    nearest: Nearest = open_index(folder, store.vectors, network).search
    if has_regions:
        nearest = ByPhoto(PhotoRows.of_names(store.images["name"]), store.vectors, nearest)
    ranking = nearest(vectors, top)
    names, boxes = store.images["name"].to_numpy(), store.images[list(BOX)].to_numpy(np.float64)

    def found(row: int, score: float) -> Found:
        return Found(names[row], score, None if np.isnan(boxes[row, 0]) else tuple(boxes[row].tolist()))

    both = zip(ranking.rows.tolist(), ranking.scores.tolist(), strict=True)
    return [[found(*one) for one in zip(rows, scores, strict=True)] for rows, scores in both]
