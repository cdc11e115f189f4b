"""What an epoch draws by chance: pairs and the pool for their negatives, or K images of P clusters each."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from pairs.image_pairs import Positives
from pairs.pair_table import PairTable

DrawnBy = Literal["query", "pair"]
Rows = Int[np.ndarray, " t"]


def draw_pairs(
    table: PairTable, num_pairs: int, rng: np.random.Generator, *, by: DrawnBy = "query"
) -> tuple[Rows, Rows]:
    """Rows of training queries and of one random positive for each; ValueError when there is none.

    By "query", queries come round in random order, each as often as any other (give or take one), however
    many positives it has, and a positive is drawn in proportion to its weight. By "pair", pairs are drawn in
    proportion to their weights, none again before all had their turn: a query comes as often as it has
    positives, as in the reference toolbox.
    """
    positives = table.positives_of("train")
    if not len(positives):
        raise ValueError(
            "training: expected queries with a positive in the training places, got none; "
            "add photos that overlap more, or lower pairs.min_overlap"
        )
    return _DRAWS[by](positives, num_pairs, rng)


def _by_query(positives: Positives, num_pairs: int, rng: np.random.Generator) -> tuple[Rows, Rows]:
    by_query = positives.take(np.argsort(positives.query, kind="stable"))
    queries, start = np.unique(by_query.query, return_index=True)
    chosen = in_turn(np.arange(len(queries)), num_pairs, rng)
    # Weights as the edges of intervals: a query's positives share the stretch between two of its edges.
    edges = np.concatenate(([0.0], np.cumsum(by_query.weight)))
    low, high = edges[start][chosen], edges[np.append(start[1:], len(by_query))][chosen]
    drawn = np.searchsorted(edges, low + rng.random(num_pairs) * (high - low), side="right") - 1
    return queries[chosen], by_query.positive[drawn]


def _by_pair(positives: Positives, num_pairs: int, rng: np.random.Generator) -> tuple[Rows, Rows]:
    shares = positives.weight / positives.weight.sum()
    whole, rest = divmod(num_pairs, len(positives))
    turns = [*[len(positives)] * whole, rest]
    rows = np.concatenate([rng.choice(len(positives), size, replace=False, p=shares) for size in turns])
    return positives.query[rows], positives.positive[rows]


_DRAWS: Mapping[DrawnBy, Callable[[Positives, int, np.random.Generator], tuple[Rows, Rows]]] = {
    "query": _by_query,
    "pair": _by_pair,
}


def draw_unplaced(table: PairTable, count: int, rng: np.random.Generator) -> Rows:
    """Rows of photos to train on that matched nothing, each as often as any other (give or take one).

    None when every photo has a place.
    """
    return in_turn(np.flatnonzero(~table.is_val & (table.place < 0)), count, rng)


def in_turn(rows: Rows, count: int, rng: np.random.Generator) -> Rows:
    """So many rows in random order, none again before all had their turn; none of none."""
    if not len(rows):
        return rows
    turns = [rng.permutation(rows) for _ in range(-(-count // len(rows)))]
    drawn: Rows = np.concatenate([rows[:0], *turns])[:count]
    return drawn


def draw_pool(
    table: PairTable,
    pool_size: int,
    allow_unplaced: bool,
    rng: np.random.Generator,
    *,
    first: Int[np.ndarray, " f"],
) -> Int[np.ndarray, " p"]:
    """Rows of the images among which an epoch's hard negatives are searched, rising; none is held out.

    `first` are different rows that are in it in any case, as long as there is room.
    """
    admitted = np.flatnonzero(~table.is_val & ((table.place >= 0) | allow_unplaced))
    if len(admitted) <= pool_size:
        return admitted
    others = np.setdiff1d(admitted, first, assume_unique=True)
    kept = first[:pool_size]
    return np.sort(np.concatenate([kept, rng.choice(others, pool_size - len(kept), replace=False)]))


def num_clusters(table: PairTable) -> int:
    """Of the training places that `draw_clusters` draws from: those with a query."""
    return len(np.unique(table.cluster[table.positives_of("train").query]))


def draw_clusters(
    table: PairTable,
    num_queries: int,
    clusters: int,
    images: int,
    rng: np.random.Generator,
    *,
    cliques: bool = False,
) -> Int[np.ndarray, "b p k"]:
    """Batches of K images of each of P different clusters, a query first, then positives of it.

    There are at least `num_queries` queries in all. P is `clusters`, at most `num_clusters`; K is `images`,
    and a query with fewer than K - 1 positives fills up with -1. Clusters of the training places are as
    likely as any other, whatever their size, and so are the queries of a cluster; positives are drawn without
    replacement, in proportion to their weights. Images of one cluster are not taken for matches: clusters
    are large. Of `cliques` every two images match, one being a positive of the other: each positive is drawn
    among those of the query that match all drawn before.

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
    matches = _matches(positives) if cliques else None
    drawn = []
    for _ in range(-(-num_queries // clusters)):
        for chosen in rng.permutation(len(members))[:clusters]:
            number = rng.choice(members[chosen])
            own = slice(start[number], stop[number])
            its, weights = _without_repeats(positives.positive[own], positives.weight[own])
            others = _drawn(its, weights, images - 1, rng, matches)
            drawn.append([queries[number], *others])
    return np.array(drawn).reshape(-1, clusters, images)


def _without_repeats(
    rows: Int[np.ndarray, " p"], weights: Float[np.ndarray, " p"]
) -> tuple[Int[np.ndarray, " r"], Float[np.ndarray, " r"]]:
    """Each row once; one that stands there twice has the weight of both."""
    rows, inverse = np.unique(rows, return_inverse=True)
    return rows, np.bincount(inverse, weights)


def _matches(positives: Positives) -> Mapping[int, set[int]]:
    """The images that match an image, whichever of two was the query."""
    found: dict[int, set[int]] = defaultdict(set)
    for query, positive in zip(positives.query.tolist(), positives.positive.tolist(), strict=True):
        found[query].add(positive)
        found[positive].add(query)
    return found


def _drawn(
    rows: Int[np.ndarray, " r"],
    weights: Float[np.ndarray, " r"],
    count: int,
    rng: np.random.Generator,
    matches: Mapping[int, set[int]] | None,
) -> Int[np.ndarray, " k"]:
    """Different rows in proportion to their weights, which match each other if `matches` are given."""
    drawn = np.full(count, -1, dtype=np.int64)
    if matches is None:
        taken = min(count, len(rows))
        drawn[:taken] = rng.choice(rows, taken, replace=False, p=weights / weights.sum())
        return drawn
    for number in range(count):
        if not len(rows):
            break
        drawn[number] = one = int(rng.choice(rows, p=weights / weights.sum()))
        still = np.array([row in matches[one] for row in rows.tolist()], np.bool_)
        rows, weights = rows[still], weights[still]
    return drawn
