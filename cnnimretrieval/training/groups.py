"""Photos that are learned from together: tuples, or a cluster's share of a batch, and their pictures."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from tqdm import tqdm

from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.reading import read_groups
from cnnimretrieval.training.tuples import Collection


@dataclass(frozen=True, kw_only=True, eq=False)
class Groups:
    """Rows of the pair table, a query first, -1 where a group has fewer; `requests` shows each query."""

    rows: Int[np.ndarray, "g k"]
    requests: tuple[ImageRequest, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, order: Int[np.ndarray, " o"]) -> "Groups":
        """The groups of these positions, in this order."""
        return Groups(rows=self.rows[order], requests=tuple(self.requests[number] for number in order))


class LoadedGroup(NamedTuple):
    """Levels of the images of a group that there are, each in its own size, and their rows."""

    pictures: list[UInt8[Tensor, "3 _ _"]]
    rows: list[int]


def load_groups(
    groups: Groups, collection: Collection, image_size: int, *, together: int, workers: int
) -> Iterator[list[LoadedGroup]]:
    """The groups in order, `together` at a time, the last ones fewer; `workers` processes read ahead.

    OSError naming the photo that cannot be read.
    """
    # A group may have fewer images than others: -1 stands for none.
    rows = [[row for row in group if row >= 0] for group in groups.rows.tolist()]
    requests = (
        [query, *(collection.whole(row) for row in others)]
        for query, (_, *others) in zip(groups.requests, rows, strict=True)
    )
    loaded = zip(rows, read_groups(requests, image_size, workers=workers), strict=True)
    waiting: list[LoadedGroup] = []
    for its_rows, levels in tqdm(loaded, desc="learn", unit="group", total=len(rows), disable=None):
        pictures = [torch.from_numpy(picture) for picture in levels]
        waiting.append(LoadedGroup(pictures=pictures, rows=its_rows))
        if len(waiting) == together:
            yield waiting
            waiting = []
    if waiting:
        yield waiting
