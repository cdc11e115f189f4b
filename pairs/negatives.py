"""Hard negatives from descriptors: for each query the nearest images of other places, at most one a cluster.

Walking down the ranking and taking at most one image per cluster gives the best image of each cluster, then
the best clusters: that needs no full ranking, only a maximum per cluster and the top few of those.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field

from groundwork.arrays import slices
from groundwork.settings import Settings
from pairs.same_place_negatives import ApartPairs, no_pairs

# Scores held at a time: 32 MB of float32, so that the pool is read from memory a few times only.
_BLOCK_SCORES = 1 << 23
# Fewer queries at a time would read a large pool from memory once too often.
_MIN_BLOCK_QUERIES = 16


class NegativesConfig(Settings):
    """Which images may be negatives, and how many."""

    num_negatives: int = Field(default=5, ge=1, description="of a query; fewer where places run out")
    rule: Literal["n1", "n2"] = Field(
        default="n2", description="n1: the nearest images of other places; n2: at most one a cluster of them"
    )
    allow_unplaced: bool = Field(
        default=False, description="admit images that matched nothing: likely, not proven, other places"
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class HardNegatives:
    """Of each query, the rows of the pool and their scores, hardest first.

    `count` says how many there are; behind them `pool_row` is -1 and `score` NaN.
    """

    pool_row: Int[np.ndarray, "q k"]
    score: Float[np.ndarray, "q k"]
    count: Int[np.ndarray, " q"]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Groups:
    """The pool's admitted images, grouped: `rows` runs group by group, in pool order inside each."""

    rows: Int[np.ndarray, " r"]
    start: Int[np.ndarray, " g"]
    size: Int[np.ndarray, " g"]
    place: Int[np.ndarray, " g"]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Entries:
    """Single scores of a block: rows and columns."""

    query: Int[np.ndarray, " e"]
    column: Int[np.ndarray, " e"]


def mine_hard_negatives(
    query_descriptors: Float[np.ndarray, "q d"],
    query_place: Int[np.ndarray, " q"],
    pool_descriptors: Float[np.ndarray, "p d"],
    pool_cluster: Int[np.ndarray, " p"],
    pool_place: Int[np.ndarray, " p"],
    config: NegativesConfig,
    apart: ApartPairs | None = None,
) -> HardNegatives:
    """The highest scores (inner products) of images of other places than the query's, one a cluster.

    With rule n1 whatever their clusters. `apart` are pairs (query, row of the pool) of one place that
    geometry proves to show different things: they compete with the others, each a cluster of its own.

    An image in a place but in no cluster counts as one of a cluster of its place's loose images. An admitted
    image without a place is a cluster of its own. Equal scores rank by pool order. Memory is bounded by a
    block of queries. Radenovic et al., TPAMI 2019, where a cluster is a place.

    ValueError when a query has no place, a cluster lies in two places, or a score is not finite.
    """
    if (query_place < 0).any():
        raise ValueError(
            f"hard negatives: expected a place for every query, got {int(query_place.min())} in row "
            f"{int(query_place.argmin())}; take queries among the images that have a place"
        )
    groups = _group_pool(pool_cluster, pool_place, config)
    column = np.full(len(pool_descriptors), -1)
    column[groups.rows] = np.arange(len(groups.rows))
    apart = no_pairs() if apart is None else apart
    shape = (len(query_descriptors), config.num_negatives)
    pool_row, score = np.full(shape, -1, dtype=np.int64), np.full(shape, np.nan, dtype=np.float32)
    if len(groups.rows):
        size = max(_MIN_BLOCK_QUERIES, _BLOCK_SCORES // len(pool_descriptors))
        for block in slices(len(query_descriptors), size):
            # take, not [:, rows]: that lays the copy out by columns, which the maxima then stride through.
            scores = np.take(query_descriptors[block] @ pool_descriptors.T, groups.rows, axis=1)
            near = slice(*np.searchsorted(apart.query, (block.start, block.stop)))
            extra = _Entries(query=apart.query[near] - block.start, column=column[apart.negative[near]])
            _pick(scores, query_place[block], groups, extra, pool_row[block], score[block])
    return HardNegatives(pool_row=pool_row, score=score, count=(pool_row >= 0).sum(axis=1))


def _group_pool(
    cluster: Int[np.ndarray, " p"], place: Int[np.ndarray, " p"], config: NegativesConfig
) -> _Groups:
    admitted = np.flatnonzero((place >= 0) | config.allow_unplaced)
    cluster, place = cluster[admitted], place[admitted]
    # Three kinds of group, told apart by the first number: a cluster, a place's loose images, a single image.
    kind = np.where(cluster >= 0, 0, np.where(place >= 0, 1, 2))
    if config.rule == "n1":
        kind[:] = 2
    label = np.select([kind == 0, kind == 1], [cluster, place], admitted)
    order = np.lexsort((admitted, label, kind))
    keys = np.stack([kind, label], axis=1)[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (keys[1:] != keys[:-1]).any(axis=1)
    start = np.flatnonzero(new)
    place_of_group = place[order][start]
    mixed = place[order] != place_of_group[np.cumsum(new) - 1]
    if mixed.any():
        raise ValueError(
            f"hard negatives: expected every cluster in one place, got two for {cluster[order][mixed][0]}; "
            "pass cluster and place of the same images"
        )
    size = np.diff(start, append=len(order))
    return _Groups(rows=admitted[order], start=start, size=size, place=place_of_group)


def _pick(
    scores: Float[np.ndarray, "b r"],
    query_place: Int[np.ndarray, " b"],
    groups: _Groups,
    extra: _Entries,
    pool_row: Int[np.ndarray, "b k"],
    score: Float[np.ndarray, "b k"],
) -> None:
    """Fill the last two, views of the result, for a block of queries."""
    best = np.maximum.reduceat(scores, groups.start, axis=1)
    if not np.isfinite(best).all():
        raise ValueError("hard negatives: expected finite scores, got NaN or infinity; check the descriptors")
    best[query_place[:, None] == groups.place] = -np.inf
    k = min(pool_row.shape[1], best.shape[1])
    # Every group that ties with the k-th best stays in, for pool order to decide.
    kth_best = np.partition(best, -k, axis=1)[:, -k]
    query, group = np.nonzero((best >= kth_best[:, None]) & (best > -np.inf))
    column = np.concatenate([_first_best(scores, query, group, groups), extra.column])
    query = np.concatenate([query, extra.query])
    row, value = groups.rows[column], scores[query, column]
    order = np.lexsort((row, -value, query))
    query, row, value = query[order], row[order], value[order]
    rank = np.arange(len(query)) - np.searchsorted(query, query)
    keep = rank < pool_row.shape[1]
    pool_row[query[keep], rank[keep]] = row[keep]
    score[query[keep], rank[keep]] = value[keep]


def _first_best(
    scores: Float[np.ndarray, "b r"],
    query: Int[np.ndarray, " e"],
    group: Int[np.ndarray, " e"],
    groups: _Groups,
) -> Int[np.ndarray, " e"]:
    """Of each entry (query, group) the first column of the group that holds the group's best score."""
    column = groups.start[group]
    order = np.argsort(group, kind="stable")
    several = order[groups.size[group[order]] > 1]
    # By group: whole rows of one slice at a time, where entry by entry would gather score by score.
    for entries in np.split(several, np.flatnonzero(np.diff(group[several])) + 1):
        if len(entries):
            start, size = groups.start[group[entries[0]]], groups.size[group[entries[0]]]
            column[entries] += scores[query[entries], start : start + size].argmax(axis=1)
    columns: Int[np.ndarray, " e"] = column
    return columns
