"""What an epoch learns from: tuples mined with the network as it is, or batches of clusters."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from cnnimretrieval.descriptors.extract import ExtractConfig
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.together import describe_together
from cnnimretrieval.training.learning.batches import Examples
from cnnimretrieval.training.learning.context import Training
from cnnimretrieval.training.photos.sampling import draw_clusters, draw_pairs, draw_pool, draw_unplaced
from cnnimretrieval.training.safeguards.divergence import sound_descriptors
from cnnimretrieval.whitening.apply import apply as apply_whitening
from pairs.negatives import mine_hard_negatives
from pairs.pair_table import PairTable
from pairs.same_place_negatives import ApartPairs


class Mined(NamedTuple):
    """What a network found for tuples: it cannot be found again once the network has learned from them."""

    negatives: Int[np.ndarray, "t n"]
    negative_distance: float | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """Tuples without negatives, as rows of the pair table, and the pool that they are to be searched in.

    `requests` are the queries as they are shown.
    """

    query: Int[np.ndarray, " t"]
    positive: Int[np.ndarray, " t"]
    requests: tuple[ImageRequest, ...]
    pool: Int[np.ndarray, " p"]

    def parts(self, sizes: Sequence[int]) -> "list[Drawn]":
        """Parts of these sizes, one after the other, with the same pool."""
        return [
            replace(
                self,
                query=self.query[start:stop],
                positive=self.positive[start:stop],
                requests=self.requests[start:stop],
            )
            for start, stop in pairwise(accumulate(sizes, initial=0))
        ]


def draw_epoch(training: Training, rng: np.random.Generator) -> Sequence[Drawn | None]:
    """What is drawn for each part of an epoch before any network is asked; None of clusters.

    ValueError when the training places give no pair.
    """
    config = training.config
    if config.sampling == "clusters":
        return [None]
    return draw_tuples(training, config.tuples_per_epoch, rng).parts(config.part_sizes)


def examples_of_part(
    training: Training, drawn: Drawn | None, rng: np.random.Generator, mined: Mined | None = None
) -> Examples:
    """The examples of a part of an epoch; `mined` are its negatives, if they are known.

    ValueError when the training places give no negative, or clusters no pair.
    """
    examples = sample_clusters(training, rng) if drawn is None else mine_tuples(training, drawn, rng, mined)
    teacher, tracks = training.teacher, training.tracks
    if teacher is not None:
        examples = replace(examples, taught=teacher.teach(len(examples.rows), rng))
    if tracks is not None:
        pairs = examples.rows[:, :2].tolist()
        tracked = tuple(tracks.pair(query, positive, rng) for query, positive in pairs)
        examples = replace(examples, tracked=tracked)
    return examples


def sample_clusters(training: Training, rng: np.random.Generator) -> Examples:
    """Queries of different clusters with positives of theirs; a batch loss finds negatives among them."""
    collection, config = training.collection, training.config
    drawn = draw_clusters(
        collection.table,
        config.tuples_per_epoch,
        config.clusters_per_batch,
        config.images_per_cluster,
        rng,
        cliques=config.cliques,
    )
    _, clusters, images = drawn.shape
    rows = drawn.reshape(-1, images)
    return Examples(
        rows=rows,
        num_positives=images - 1,
        requests=tuple(
            collection.query(query, config.query, rng, None if positive < 0 else positive)
            for query, positive in rows[:, :2].tolist()
        ),
        order=np.arange(len(rows)),
        batch_size=clusters,
    )


def draw_tuples(training: Training, num_tuples: int, rng: np.random.Generator) -> Drawn:
    """Pairs of training places, and the images to search for negatives."""
    collection, config = training.collection, training.config
    table = collection.table
    alone = draw_unplaced(table, int(config.unplaced_share * num_tuples), rng)
    query, positive = draw_pairs(table, num_tuples - len(alone), rng, by=config.drawn_by)
    requests = [
        collection.query(row, config.query, rng, other)
        for row, other in zip(query.tolist(), positive.tolist(), strict=True)
    ]
    first = np.unique([query, positive]) if config.pool_holds_pairs else np.empty(0, np.int64)
    if len(alone):
        requests += [collection.distorted(row, config.query, rng) for row in alone.tolist()]
        # Parts of an epoch are taken one after the other: each gets its share.
        order = rng.permutation(num_tuples)
        query, positive = np.append(query, alone)[order], np.append(positive, alone)[order]
        requests = [requests[number] for number in order]
    pool = draw_pool(table, config.pool_size, config.negatives.allow_unplaced, rng, first=first)
    return Drawn(query=query, positive=positive, requests=tuple(requests), pool=pool)


def mine_tuples(
    training: Training, drawn: Drawn, rng: np.random.Generator, mined: Mined | None = None
) -> Examples:
    """Tuples with the hard negatives of the network as it is, to learn from in random order.

    With `mined`, what an earlier call found, no network is asked.
    """
    config = training.config
    if mined is None:
        mined = _mined(training, drawn)
    return Examples(
        rows=np.column_stack([drawn.query, drawn.positive, mined.negatives]),
        num_positives=1,
        requests=drawn.requests,
        # A tuple without any negative has nothing to hold the descriptors apart.
        order=rng.permutation(np.flatnonzero((mined.negatives >= 0).any(axis=1))),
        batch_size=config.batch_tuples,
        negative_distance=mined.negative_distance,
    )


def _mined(training: Training, drawn: Drawn) -> Mined:
    table, query, pool = training.collection.table, drawn.query, drawn.pool
    query_vectors, pool_vectors = _described(training, drawn)
    place = _places(table, query)
    found = mine_hard_negatives(
        query_vectors,
        place[query],
        pool_vectors,
        table.cluster[pool],
        place[pool],
        training.config.negatives,
        _apart(table.apart, query, pool),
    )
    if not found.count.any():
        raise ValueError(
            "training: expected negatives from at least two training places, got images of one; "
            "add photos of other places, or set train.loop.negatives.allow_unplaced or pairs.apart_per_query"
        )
    distances = np.sqrt(np.clip(2.0 - 2.0 * found.score[found.pool_row >= 0], 0.0, None))
    negatives = np.where(found.pool_row >= 0, pool[found.pool_row], -1)
    return Mined(negatives, float(distances.mean()))


def _places(table: PairTable, query: Int[np.ndarray, " t"]) -> Int[np.ndarray, " n"]:
    """The place of each image; a query that matched nothing has one of its own."""
    place = table.place.copy()
    alone = np.unique(query[place[query] < 0])
    place[alone] = place.max(initial=-1) + 1 + np.arange(len(alone))
    return place


def _described(training: Training, drawn: Drawn) -> tuple[Float[np.ndarray, "t d"], Float[np.ndarray, "p d"]]:
    """Descriptors, as the loss sees them, of the queries as they are shown, and of the pool.

    Photos that the validation of the same weights has described as they are need not be described again.
    """
    collection, config = training.collection, ExtractConfig(**vars(training.look))
    rows = np.concatenate([drawn.query, drawn.pool])
    shown = [*drawn.requests, *(collection.whole(int(row)) for row in drawn.pool)]
    made = training.descriptions
    same = made is not None and made.image_size == config.image_size and config.precision == "float32"
    known = made.known_database(training.network) if made is not None and same else None
    vectors = np.empty((len(rows), training.network.dim), np.float32)
    is_known = np.zeros(len(rows), np.bool_)
    if known is not None:
        is_known[:] = [
            request == collection.whole(int(row)) for request, row in zip(shown, rows, strict=True)
        ]
        vectors[is_known] = known[rows[is_known]]
    others = np.flatnonzero(~is_known)
    found = describe_together(
        training.network,
        [shown[position] for position in others],
        config,
        device=training.device,
        workers=training.workers,
        inputs=training.inputs,
        desc="describe queries and pool",
    )
    names = [collection.table.names[row] for row in rows[others]]
    vectors[others] = sound_descriptors(found, names, differ=True)
    if training.whitening is not None:
        vectors = apply_whitening(training.whitening, vectors)
    return vectors[: len(drawn.query)], vectors[len(drawn.query) :]


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
