"""Exact search: the database rows with the highest inner products, in memory bounded by a block."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt64

_QUERY_BLOCK = 256
_DATABASE_BLOCK = 16384
# A score and its row travel in one 64-bit number, 32 bits each.
_MOST_ROWS = 2**32


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranking:
    """The first `k` database rows of each query, best first, with their scores (inner products)."""

    rows: Int[np.ndarray, "q k"]
    scores: Float[np.ndarray, "q k"]


def search(
    queries: Float[np.ndarray, "q d"],
    database: Float[np.ndarray, "n d"],
    top: int | None = None,
    *,
    query_block: int = _QUERY_BLOCK,
    database_block: int = _DATABASE_BLOCK,
) -> Ranking:
    """Rank `database` rows by falling float32 inner product with each query; equal scores by rising row.

    `top` limits the ranking; None ranks the whole database. `database` may be a memory map. At most
    query_block x database_block scores are held at a time besides the result. ValueError for shapes that do
    not fit or values that are not finite.
    """
    _check(queries, database, top)
    k = len(database) if top is None else min(top, len(database))
    rows = np.empty((len(queries), k), np.int64)
    scores = np.empty((len(queries), k), np.float32)
    for block in _blocks(len(queries), query_block):
        best = _best_keys(np.asarray(queries[block], np.float32), database, k, database_block)
        rows[block], scores[block] = _rows_and_scores(best)
    return Ranking(rows=rows, scores=scores)


def _best_keys(
    queries: Float[np.ndarray, "q d"], database: Float[np.ndarray, "n d"], k: int, database_block: int
) -> UInt64[np.ndarray, "q k"]:
    """Keys of the `k` best rows per query, falling."""
    # The best so far stand in the first columns, the next block of candidates behind them.
    candidates = np.empty((len(queries), min(k + database_block, len(database))), np.uint64)
    filled = 0
    for block in _blocks(len(database), database_block):
        scores = queries @ np.asarray(database[block], np.float32).T
        if not np.isfinite(scores).all():
            raise ValueError(
                f"search: expected finite descriptors, got NaN or infinity in database rows {block.start} to "
                f"{block.stop - 1} or in a query; describe the images again"
            )
        candidates[:, filled : filled + scores.shape[1]] = _keys(scores, block.start)
        filled += scores.shape[1]
        if filled > k:
            candidates[:, :k] = np.partition(candidates[:, :filled], filled - k, axis=1)[:, -k:]
            filled = k
    return np.sort(candidates[:, :filled], axis=1)[:, ::-1]


def _keys(scores: Float[np.ndarray, "q b"], first_row: int) -> UInt64[np.ndarray, "q b"]:
    """One integer per score that orders by score, then by falling row: all differ, so ties need no care.

    The bits of a positive float32 order like an unsigned integer; those of a negative one the other way
    round.
    """
    bits = (scores + np.float32(0.0)).view(np.uint32)  # + 0 turns -0 into 0, its equal
    sign = np.uint32(1 << 31)
    ordered = np.where(bits & sign, ~bits, bits | sign).astype(np.uint64)
    rows = np.arange(first_row, first_row + scores.shape[1], dtype=np.uint64)
    return (ordered << np.uint64(32)) | (np.uint64(_MOST_ROWS - 1) - rows)


def _rows_and_scores(
    keys: UInt64[np.ndarray, "q k"],
) -> tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]:
    rows = np.uint64(_MOST_ROWS - 1) - (keys & np.uint64(_MOST_ROWS - 1))
    ordered = (keys >> np.uint64(32)).astype(np.uint32)
    sign = np.uint32(1 << 31)
    bits = np.where(ordered & sign, ordered ^ sign, ~ordered)
    return rows.astype(np.int64), bits.view(np.float32)


def _blocks(n: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def _check(queries: Float[np.ndarray, "q d"], database: Float[np.ndarray, "n d"], top: int | None) -> None:
    if queries.ndim != 2 or database.ndim != 2 or queries.shape[1] != database.shape[1]:
        raise ValueError(
            f"search: expected queries (q, d) and database (n, d) of one length d, got {queries.shape} and "
            f"{database.shape}; describe both with the same network and whitening"
        )
    if top is not None and top < 1:
        raise ValueError(f"search: expected top of at least 1, got {top}; ask for one image or more")
    if len(database) >= _MOST_ROWS:
        raise ValueError(f"search: expected fewer than 2**32 rows, got {len(database)}; search in parts")
