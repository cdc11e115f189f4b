"""What is learned from: examples, each a query with others, and the batches of them that a step is given."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, repeat
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.inputs import Given
from cnnimretrieval.distributed import num_ranks, rank
from cnnimretrieval.training.auxiliary_losses.distillation import Taught
from cnnimretrieval.training.auxiliary_losses.tracks import TrackedPair
from cnnimretrieval.training.learning.context import Training
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
        taught: photos that come with each example for the teacher's sake, if there is one.
        tracked: of each example, the points that query and positive share, if they are learned from.

    """

    rows: Int[np.ndarray, "e k"]
    num_positives: int
    requests: tuple[ImageRequest, ...]
    order: Int[np.ndarray, " o"]
    batch_size: int
    negative_distance: float | None = None
    taught: Taught | None = None
    tracked: Sequence[TrackedPair | None] = ()

    @property
    def negatives(self) -> Int[np.ndarray, "e n"]:
        """The columns of negatives."""
        return self.rows[:, 1 + self.num_positives :]

    @property
    def num_pictures(self) -> int:
        """Of the examples to learn from, with those of a teacher."""
        own = int((self.rows[self.order] >= 0).sum())
        return own if self.taught is None else own + len(self.order) * self.taught.targets.shape[1]


class LoadedExample(NamedTuple):
    """Rows of the images of an example that there are, and what the network is given of each.

    None of those that another rank has. `taught` are photos beside them, with their `targets`; `pair` is what
    the network is given of the query and the positive as they are, which share points at `xy`.
    """

    rows: list[int]
    pictures: list[Shaped[Tensor, "_ _ _"] | None]
    taught: Sequence[Shaped[Tensor, "_ _ _"] | None] = ()
    targets: Float[np.ndarray, "n d"] | None = None
    pair: Sequence[Shaped[Tensor, "_ _ _"]] = ()
    xy: Float[np.ndarray, "k 2 2"] | None = None


# What a step learns from.
Batch = tuple[LoadedExample, ...]


def load_batches(examples: Examples, training: Training, *, done: int = 0) -> Iterator[Batch]:
    """The batches in the order of learning, the last one smaller, but for those that are `done` already.

    OSError naming the photo that cannot be read.
    """
    order = examples.order[done * examples.batch_size :].tolist()
    rows = [[row for row in examples.rows[position].tolist() if row >= 0] for position in order]
    whole, taught = training.collection.whole, examples.taught
    beside = [() if taught is None else taught.requests[position] for position in order]
    requests = [
        request
        for position, (_, *others), also in zip(order, rows, beside, strict=True)
        for request in (examples.requests[position], *map(whole, others), *also)
    ]
    own = range(rank(), len(requests), num_ranks())
    given = _given(training, [requests[number] for number in own])
    pictures = (next(given) if number in own else None for number in range(len(requests)))
    pairs = _pairs(training, [examples.tracked[position] for position in order] if examples.tracked else ())
    loaded = (
        LoadedExample(
            rows=its_rows,
            pictures=[next(pictures) for _ in its_rows],
            taught=[next(pictures) for _ in also],
            targets=None if taught is None else taught.targets[position],
            **next(pairs),
        )
        for position, its_rows, also in zip(order, rows, beside, strict=True)
    )
    total = examples.num_pictures
    with progress(desc="learn", unit="photo", total=total, initial=total - len(requests)) as bar:
        while batch := _next_batch(training, loaded, examples.batch_size):
            yield batch
            bar.update(sum(len(example.pictures) + len(example.taught) for example in batch))


def _given(training: Training, requests: Sequence[ImageRequest]) -> Iterator[Shaped[Tensor, "_ _ _"]]:
    given = training.inputs.each(
        training.network, requests, training.look, device=training.device, workers=training.workers
    )
    return map(_only_part, given)


def _pairs(training: Training, tracked: Sequence[TrackedPair | None]) -> Iterator[dict[str, Any]]:
    """`pair` and `xy` of each example, both whole on one rank; nothing where there is nothing to learn."""
    own = [pair if number % num_ranks() == rank() else None for number, pair in enumerate(tracked)]
    given = _given(training, [request for pair in own if pair is not None for request in pair.requests])
    for pair in own:
        yield {} if pair is None else {"pair": (next(given), next(given)), "xy": pair.xy}
    yield from repeat({})


def _next_batch(training: Training, loaded: Iterator[LoadedExample], size: int) -> Batch:
    with training.clock.part("read"):
        return tuple(islice(loaded, size))


def _only_part(given: Given) -> Shaped[Tensor, "_ _ _"]:
    if given.reason:
        raise OSError(given.message)
    (part,) = given.parts
    return part
