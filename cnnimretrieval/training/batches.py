"""What is learned from: examples, each a query with others, and the batches of them that a step is given."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from cnnimretrieval.descriptors.images import ImageRequest, open_request, to_levels
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
    """The batches in the order of learning, the last one smaller; `workers` processes read ahead."""
    dataset = _Pictures(examples, collection, image_size)
    loader = DataLoader(dataset, batch_size=None, num_workers=workers, collate_fn=_as_it_is)
    # disable=None: no bar when stderr is not a terminal.
    loaded = iter(tqdm(loader, desc="learn", unit="example", total=len(dataset), disable=None))
    while batch := tuple(islice(loaded, examples.batch_size)):
        yield batch


class _Pictures(Dataset[LoadedExample]):
    """The examples in the order of learning, as pictures of longest side `image_size`."""

    def __init__(self, examples: Examples, collection: Collection, image_size: int) -> None:
        self.examples = examples
        self.collection = collection
        self.image_size = image_size

    def __len__(self) -> int:
        return len(self.examples.order)

    def __getitem__(self, number: int) -> LoadedExample:
        """Load one example; OSError naming the photo that cannot be read."""
        position = self.examples.order[number]
        rows = [row for row in self.examples.rows[position].tolist() if row >= 0]
        requests = [self.examples.requests[position], *(self.collection.whole(row) for row in rows[1:])]
        pictures = [to_levels(open_request(request, self.image_size)) for request in requests]
        return LoadedExample(rows=rows, pictures=pictures)


def _as_it_is(loaded: Any) -> Any:
    return loaded
