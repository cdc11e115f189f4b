"""P x K sampling: batches of images from P clusters, of each a query and K - 1 of its positives."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from pairs.pair_table import PairTable


@dataclass(frozen=True, kw_only=True, eq=False)
class ClusterBatches:
    """Whole batches of `clusters` rows each: a query, its positives, -1 where it has fewer."""

    rows: Int[np.ndarray, "g k"]
    clusters: int


def draw_clusters(
    table: PairTable, num_queries: int, clusters: int, images: int, rng: np.random.Generator
) -> ClusterBatches:
    """Batches of a query from each of `clusters` different clusters, in all at least `num_queries`.

    Clusters of the training places are as likely as any other, whatever their size, and so are the queries of
    a cluster; positives are drawn without replacement, in proportion to their weights. A query with fewer
    than `images` - 1 positives fills up with -1. Images of one cluster are not taken for matches: clusters
    are large. A collection with fewer clusters has smaller batches.

    ValueError when there are fewer than two clusters to draw from.
    """
    positives = table.positives_of("train")
    # By query, so that the positives of each lie together.
    positives = positives.take(np.argsort(positives.query, kind="stable"))
    queries, start = np.unique(positives.query, return_index=True)
    stop = np.append(start[1:], len(positives))
    cluster = table.cluster[queries]
    members = [np.flatnonzero(cluster == one) for one in np.unique(cluster)]
    if len(members) < 2:
        raise ValueError(
            f"training: expected at least 2 training clusters to sample from, got {len(members)}; "
            "add photos of other places, or set train.loop.sampling to tuples"
        )
    groups = []
    clusters = min(clusters, len(members))
    for _ in range(-(-num_queries // clusters)):
        for chosen in rng.permutation(len(members))[:clusters]:
            number = rng.choice(members[chosen])
            own = slice(start[number], stop[number])
            drawn = _draw(positives.positive[own], positives.weight[own], images - 1, rng)
            groups.append(np.concatenate([[queries[number]], drawn]))
    return ClusterBatches(rows=np.stack(groups), clusters=clusters)


def _draw(
    rows: Int[np.ndarray, " p"], weights: np.ndarray, count: int, rng: np.random.Generator
) -> Int[np.ndarray, " k"]:
    # A row may stand there twice, with the weight of both.
    rows, inverse = np.unique(rows, return_inverse=True)
    weights = np.bincount(inverse, weights)
    drawn = np.full(count, -1, dtype=np.int64)
    taken = min(count, len(rows))
    drawn[:taken] = rng.choice(rows, taken, replace=False, p=weights / weights.sum())
    return drawn
