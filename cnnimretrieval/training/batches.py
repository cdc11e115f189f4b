"""What is learned from: examples, each a query with others, and the batches of them that a step is given."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Shaped
from torch import Tensor

from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.inputs import Given
from cnnimretrieval.training.context import Training
from cnnimretrieval.training.distributed import num_ranks, rank
from groundwork.progress import progress


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
    """Rows of the images of an example that there are, and what the network is given of each.

    None of those that another rank has.
    """

    rows: list[int]
    pictures: list[Shaped[Tensor, "_ _ _"] | None]


# What a step learns from.
Batch = tuple[LoadedExample, ...]


def load_batches(examples: Examples, training: Training, *, done: int = 0) -> Iterator[Batch]:
    """The batches in the order of learning, the last one smaller, but for those that are `done` already.

    OSError naming the photo that cannot be read.
    """
    order = examples.order[done * examples.batch_size :].tolist()
    rows = [[row for row in examples.rows[position].tolist() if row >= 0] for position in order]
    whole = training.collection.whole
    requests = [
        request
        for position, (_, *others) in zip(order, rows, strict=True)
        for request in (examples.requests[position], *map(whole, others))
    ]
    own = range(rank(), len(requests), num_ranks())
    given = training.inputs.each(
        training.network,
        [requests[number] for number in own],
        training.look,
        device=training.device,
        workers=training.workers,
    )
    pictures = (_only_part(next(given)) if number in own else None for number in range(len(requests)))
    loaded = (LoadedExample(rows=its_rows, pictures=[next(pictures) for _ in its_rows]) for its_rows in rows)
    total = int((examples.rows[examples.order] >= 0).sum())
    with progress(desc="learn", unit="photo", total=total, initial=total - len(requests)) as bar:
        while batch := _next_batch(training, loaded, examples.batch_size):
            yield batch
            bar.update(sum(len(example.rows) for example in batch))


def _next_batch(training: Training, loaded: Iterator[LoadedExample], size: int) -> Batch:
    with training.clock.part("read"):
        return tuple(islice(loaded, size))


def _only_part(given: Given) -> Shaped[Tensor, "_ _ _"]:
    if given.reason:
        raise OSError(given.message)
    (part,) = given.parts
    return part
