"""Exact search: the rows with the highest inner products, of a database or of each row's own collection."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt64

from groundwork.arrays import slices
from groundwork.shards import Rows, blocks

_QUERY_BLOCK = 256
_DATABASE_BLOCK = 16384
# Libraries multiply matrices of so few rows at a fraction of their speed: each query by itself is faster, ...
_FEW_QUERIES = 12
# ... while so many numbers of the database, which fit into a core's cache, meet one query after the other.
_CACHED_NUMBERS = 1 << 19
_COLLECTION_BLOCK = 1024
# A score and its row travel in one 64-bit number, 32 bits each.
_MOST_ROWS = 2**32
# Where more than one in so many scores of a block may still count, handling them all at once is faster.
_DENSE = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranking:
    """The first `k` database rows of each query, best first, with their scores (inner products)."""

    rows: Int[np.ndarray, "q k"]
    scores: Float[np.ndarray, "q k"]


# Ranks so many rows at most for each query, of a database that it knows; an index may do it by approximation.
Nearest = Callable[[Float[np.ndarray, "q d"], int], Ranking]


def search(
    queries: Float[np.ndarray, "q d"],
    database: Rows,
    top: int | None = None,
    *,
    query_block: int = _QUERY_BLOCK,
    database_block: int = _DATABASE_BLOCK,
) -> Ranking:
    """Rank `database` rows by falling float32 inner product with each query; equal scores by rising row.

    `top` limits the ranking; None ranks the whole database. `database`, (n, d), may be a memory map or
    several of them. At most query_block x database_block scores are held at a time besides the result.
    ValueError for shapes that do not fit or values that are not finite.
    """
    _check(queries, database, top)
    k = len(database) if top is None else min(top, len(database))
    rows = np.empty((len(queries), k), np.int64)
    scores = np.empty((len(queries), k), np.float32)
    for first, block in blocks(queries, query_block):
        best = _best_keys(score_blocks(block, database, database_block), k)
        rows[first : first + len(block)], scores[first : first + len(block)] = _rows_and_scores(best)
    return Ranking(rows=rows, scores=scores)


def nearest_others(
    database: Rows, k: int, *, query_block: int = _COLLECTION_BLOCK, database_block: int = _DATABASE_BLOCK
) -> Iterator[tuple[int, Ranking]]:
    """For every `query_block` rows: the first of them, and the `k` others nearest to each, as in `search`.

    A row is never its own neighbour, a copy of it is. A database of fewer rows gives as many as there are.
    Time grows with the square of the number of rows, memory does not.
    """
    k = min(k, len(database) - 1)
    for first, block in blocks(database, query_block):
        best = np.empty((len(block), 0), np.uint64)
        if k > 0:
            parts = score_blocks(block, database, database_block)
            best = _best_keys(_without_own(parts, np.arange(first, first + len(block))), k)
        rows, scores = _rows_and_scores(best)
        yield first, Ranking(rows=rows, scores=scores)


def score_blocks(
    queries: Float[np.ndarray, "q d"], database: Rows, size: int
) -> Iterator[tuple[int, Float[np.ndarray, "q b"]]]:
    """First row, and the float32 scores of all queries, of every `size` rows of `database`.

    ValueError for a score that is not finite.
    """
    queries = np.asarray(queries, np.float32)
    for first, block in blocks(database, size):
        scores = _products(queries, block)
        if not np.isfinite(scores).all():
            raise ValueError(
                f"search: expected finite descriptors, got NaN or infinity in database rows {first} to "
                f"{first + len(block) - 1} or in a query; describe the images again"
            )
        yield first, scores


def _products(queries: Float[np.ndarray, "q d"], block: Float[np.ndarray, "b d"]) -> Float[np.ndarray, "q b"]:
    products = np.empty((len(queries), len(block)), np.float32)
    if len(queries) > _FEW_QUERIES:
        return np.matmul(queries, block.T, out=products)
    for rows in slices(len(block), 1 + _CACHED_NUMBERS // (1 + block.shape[1])):
        for number, query in enumerate(queries):
            products[number, rows] = block[rows] @ query
    return products


def _without_own(
    parts: Iterator[tuple[int, Float[np.ndarray, "q b"]]], own: Int[np.ndarray, " q"]
) -> Iterator[tuple[int, Float[np.ndarray, "q b"]]]:
    """The same scores, with that of each query's own row below all others."""
    for first, scores in parts:
        inside = np.flatnonzero((own >= first) & (own < first + scores.shape[1]))
        scores[inside, own[inside] - first] = -np.inf
        yield first, scores


def _best_keys(parts: Iterator[tuple[int, Float[np.ndarray, "q b"]]], k: int) -> UInt64[np.ndarray, "q k"]:
    """Keys of the `k` best rows per query, falling, of scores block by block."""
    pieces: list[np.ndarray] = []
    filled, least = 0, None
    for first, scores in parts:
        pieces.append(_keys_at_least(scores, first, least))
        filled += pieces[-1].shape[1]
        if filled >= k:
            # The least of the best comes first, and is what the next block has to reach.
            best = np.partition(np.concatenate(pieces, axis=1), filled - k, axis=1)[:, -k:]
            pieces, filled, least = [best], k, best[:, 0]
    return np.sort(pieces[0], axis=1)[:, ::-1]


def _keys_at_least(
    scores: Float[np.ndarray, "q b"], first_row: int, least: UInt64[np.ndarray, " q"] | None
) -> UInt64[np.ndarray, "q c"]:
    """Keys of the scores that may be among the best; rows with fewer of them than others are filled up by 0.

    `least` are the keys to beat, of earlier rows, which win ties. Only a few rows of a block beat them once
    some blocks have been seen.
    """
    rows = np.arange(first_row, first_row + scores.shape[1])
    if least is None:
        return keys(scores, rows)
    _, least_scores = _rows_and_scores(least)
    reaching: Bool[np.ndarray, "q b"] = scores > least_scores[:, None]
    counts = reaching.sum(axis=1)
    if counts.max() * _DENSE > scores.shape[1]:
        return keys(scores, rows)
    query, column = np.nonzero(reaching)
    found = np.zeros((len(scores), counts.max()), np.uint64)
    place = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
    found[query, place] = keys(scores[query, column], rows[column])
    return found


def keys(scores: Float[np.ndarray, "*s"], rows: Int[np.ndarray, "..."]) -> UInt64[np.ndarray, "*s"]:
    """One integer per float32 score and its row that orders by score, then by falling row.

    All of a query's keys differ, so ties need no care.
    """
    # The bits of a positive float32 order like an unsigned integer; those of a negative one the other way
    # round. + 0 turns -0 into 0, its equal.
    bits = (scores + np.float32(0.0)).view(np.uint32)
    sign = np.uint32(1 << 31)
    ordered = np.where(bits & sign, ~bits, bits | sign).astype(np.uint64)
    return (ordered << np.uint64(32)) | (np.uint64(_MOST_ROWS - 1) - rows.astype(np.uint64))


def _rows_and_scores(
    keys: UInt64[np.ndarray, "q k"],
) -> tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]:
    rows = np.uint64(_MOST_ROWS - 1) - (keys & np.uint64(_MOST_ROWS - 1))
    ordered = (keys >> np.uint64(32)).astype(np.uint32)
    sign = np.uint32(1 << 31)
    bits = np.where(ordered & sign, ordered ^ sign, ~ordered)
    return rows.astype(np.int64), bits.view(np.float32)


def _check(queries: Float[np.ndarray, "q d"], database: Rows, top: int | None) -> None:
    if queries.ndim != 2 or database.ndim != 2 or queries.shape[1] != database.shape[1]:
        raise ValueError(
            f"search: expected queries (q, d) and database (n, d) of one length d, got {queries.shape} and "
            f"{database.shape}; describe both with the same network and whitening"
        )
    if not len(database):
        raise ValueError("search: expected a database of at least one row, got none; describe photos first")
    if top is not None and top < 1:
        raise ValueError(f"search: expected top of at least 1, got {top}; ask for one image or more")
    if len(database) >= _MOST_ROWS:
        raise ValueError(f"search: expected fewer than 2**32 rows, got {len(database)}; search in parts")
