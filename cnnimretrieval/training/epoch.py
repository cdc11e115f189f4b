"""What an epoch learns from: tuples mined with the network as it is, or batches of clusters."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from cnnimretrieval.descriptors.extract import ExtractConfig, describe
from cnnimretrieval.training.clusters import draw_clusters
from cnnimretrieval.training.divergence import check_descriptors
from cnnimretrieval.training.groups import Groups
from cnnimretrieval.training.learner import Training
from cnnimretrieval.training.tuples import Tuples, assemble, draw_pairs, draw_pool
from cnnimretrieval.whitening.apply import apply as apply_whitening
from pairs.negatives import mine_hard_negatives
from pairs.same_place_negatives import ApartPairs


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """A part of an epoch, or all of it: `groups` in the order of learning, `together` a step.

    `tuples` says the same for people, in the order of drawing. `negative_distance` is the mean L2 distance of
    queries to their hard negatives; None where none were mined.
    """

    groups: Groups
    together: int
    tuples: Tuples
    negative_distance: float | None = None


def parts_of_epoch(training: Training, rng: np.random.Generator) -> Iterator[Part]:
    """The parts of an epoch, each drawn when the one before has been learned from.

    ValueError when the training places give no pair or no negative.
    """
    config = training.config
    if config.sampling == "clusters":
        yield _sampled(training, rng)
        return
    for number in range(config.minings_per_epoch):
        # As even as whole numbers allow; together `tuples_per_epoch`.
        count = (config.tuples_per_epoch + number) // config.minings_per_epoch
        if count:
            yield mine_tuples(training, count, rng)


def mine_tuples(training: Training, num_tuples: int, rng: np.random.Generator) -> Part:
    """Tuples with the hard negatives of the network as it is, in random order."""
    collection, config = training.collection, training.config
    table = collection.table
    query, positive = draw_pairs(table, num_tuples, rng, by=config.drawn_by)
    requests = tuple(collection.query(int(row), config.query, rng) for row in query)
    first = np.unique([query, positive]) if config.pool_holds_pairs else np.empty(0, np.int64)
    pool = draw_pool(table, config.pool_size, config.negatives.allow_unplaced, rng, first=first)
    vectors = describe(
        training.network,
        [*requests, *(collection.whole(int(row)) for row in pool)],
        ExtractConfig(image_size=config.image_size, precision=config.precision),
        device=training.device,
        workers=training.workers,
    ).require_all()
    names = [table.names[row] for row in (*query, *pool)]
    check_descriptors(vectors, names, differ=True)
    if training.whitening is not None:
        vectors = apply_whitening(training.whitening, vectors)
    found = mine_hard_negatives(
        vectors[: len(query)],
        table.place[query],
        vectors[len(query) :],
        table.cluster[pool],
        table.place[pool],
        config.negatives,
        _apart(table.apart, query, pool),
    )
    if not found.count.any():
        raise ValueError(
            "training: expected negatives from at least two training places, got images of one; "
            "add photos of other places, or set train.loop.negatives.allow_unplaced or pairs.apart_per_query"
        )
    distances = np.sqrt(np.clip(2.0 - 2.0 * found.score[found.pool_row >= 0], 0.0, None))
    tuples = assemble(query, positive, requests, pool, found)
    # A tuple without any negative has nothing to hold the descriptors apart.
    usable = np.flatnonzero(found.count)
    return Part(
        groups=_groups(tuples).take(rng.permutation(usable)),
        together=config.batch_tuples,
        tuples=tuples,
        negative_distance=float(distances.mean()),
    )


def _apart(known: ApartPairs, query: Int[np.ndarray, " t"], pool: Int[np.ndarray, " p"]) -> ApartPairs:
    """Pairs (number of the query, row of the pool) that are known to lie apart."""
    start = np.searchsorted(known.query, query)
    size = np.searchsorted(known.query, query, side="right") - start
    number = np.repeat(np.arange(len(query)), size)
    offset = np.arange(len(number)) - np.repeat(np.cumsum(size) - size, size)
    image = known.negative[start[number] + offset]
    row = np.searchsorted(pool, image).clip(max=len(pool) - 1)
    inside = pool[row] == image
    return ApartPairs(query=number[inside], negative=row[inside])


def _sampled(training: Training, rng: np.random.Generator) -> Part:
    collection, config = training.collection, training.config
    drawn = draw_clusters(
        collection.table, config.tuples_per_epoch, config.clusters_per_batch, config.images_per_cluster, rng
    )
    requests = tuple(collection.query(int(row), config.query, rng) for row in drawn.rows[:, 0])
    return Part(
        groups=Groups(rows=drawn.rows, requests=requests),
        together=drawn.clusters,
        tuples=Tuples(
            query=drawn.rows[:, 0],
            positive=drawn.rows[:, 1],
            negatives=np.empty((len(drawn.rows), 0), dtype=np.int64),
            requests=requests,
        ),
    )


def _groups(tuples: Tuples) -> Groups:
    rows = np.column_stack([tuples.query, tuples.positive, tuples.negatives])
    return Groups(rows=rows, requests=tuples.requests)
