"""What is learned from: examples, each a query with others, and the batches of them that a step is given."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from tqdm import tqdm

from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.reading import read_groups
from cnnimretrieval.training.collection import Collection


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """Tuples, or shares that clusters have in batches, in the order in which they were drawn.

    Attributes:
        rows: of the pair table: a query, `num_positives` positives, then negatives; -1 where there are fewer.
        num_positives: columns of positives.
        requests: how each query is shown; the others are shown as they are.
        order: positions in the order of learning, of those that there is something to learn from.
        batch_size: of them, learned from in one step.
        negative_distance: mean L2 distance of queries to their hard negatives; None where none were mined.

    """

    rows: Int[np.ndarray, "e k"]
    num_positives: int
    requests: tuple[ImageRequest, ...]
    order: Int[np.ndarray, " o"]
    batch_size: int
    negative_distance: float | None = None

    @property
    def negatives(self) -> Int[np.ndarray, "e n"]:
        """The columns of negatives."""
        return self.rows[:, 1 + self.num_positives :]


class LoadedExample(NamedTuple):
    """Rows of the images of an example that there are, and their levels, each in its own size."""

    rows: list[int]
    pictures: list[UInt8[Tensor, "3 _ _"]]


# What a step learns from.
Batch = tuple[LoadedExample, ...]


def load_batches(
    examples: Examples, collection: Collection, image_size: int, *, workers: int
) -> Iterator[Batch]:
    """The batches in the order of learning, the last one smaller; `workers` processes read ahead.

    Pictures have a longest side of `image_size`. OSError naming the photo that cannot be read.
    """
    order = examples.order.tolist()
    rows = [[row for row in examples.rows[position].tolist() if row >= 0] for position in order]
    requests = (
        [examples.requests[position], *(collection.whole(row) for row in others)]
        for position, (_, *others) in zip(order, rows, strict=True)
    )
    # disable=None: no bar when stderr is not a terminal.
    read = read_groups(requests, image_size, workers=workers)
    bar = tqdm(zip(rows, read, strict=True), desc="learn", unit="example", total=len(rows), disable=None)
    loaded = (
        LoadedExample(rows=its_rows, pictures=[torch.from_numpy(picture) for picture in levels])
        for its_rows, levels in bar
    )
    while batch := tuple(islice(loaded, examples.batch_size)):
        yield batch
