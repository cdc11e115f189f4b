"""Where the judged rows of a database stand in each query's ranking, without the ranking itself."""

from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from groundwork.descriptor_folder import read_descriptor_folder
from groundwork.progress import progress
from groundwork.shards import Rows
from groundwork.top_k import keys, score_blocks

# Rows at a time; with the 70 queries of the published benchmarks, 9 MB of scores.
_BLOCK = 32768
_BUCKETS = 16384
# The rank of what a ranking does not reach.
NEVER = np.iinfo(np.int64).max


def judged_ranks(
    queries: Float[np.ndarray, "q d"],
    database: Rows,
    judged: Sequence[Int[np.ndarray, " j"]],
    *,
    block: int = _BLOCK,
) -> list[Int[np.ndarray, " j"]]:
    """Zero-based ranks of the rows `judged` of each query among all rows of `database`.

    They are those of `search.exact.search`: by falling float32 score, equal scores by rising row. The rank
    of a row is the number of rows before it, so scores are counted block by block and no ranking is kept:
    memory is that of one block, time that of the scores. A query's rows are to be different.
    """
    _check(queries, database, judged)
    return _num_before_each(queries, database, judged, _scores_of(queries, database, judged, block), block)


def spread_ranks(
    queries: Float[np.ndarray, "q d"],
    database: Rows,
    judged: Sequence[Int[np.ndarray, " j"]],
    *,
    folders: Sequence[Path],
    executor: Executor,
) -> list[Int[np.ndarray, " j"]]:
    """As `judged_ranks`, with the descriptors in `folders` below `database`: none of them is judged.

    Each folder is read, and checked, by a task of its own, which counts.
    """
    _check(queries, database, judged)
    own_scores = _scores_of(queries, database, judged, _BLOCK)
    tasks = [
        executor.submit(_num_before_in, folder.resolve(), queries, judged, own_scores, len(database))
        for folder in folders
    ]
    ranks = _num_before_each(queries, database, judged, own_scores, _BLOCK)
    for task in tasks:
        ranks = [before + more for before, more in zip(ranks, task.result(), strict=True)]
    return ranks


def _num_before_in(
    folder: Path,
    queries: Float[np.ndarray, "q d"],
    judged: Sequence[Int[np.ndarray, " j"]],
    own_scores: Sequence[Float[np.ndarray, " j"]],
    start: int,
) -> list[Int[np.ndarray, " j"]]:
    """In a task: the rows of a folder before each judged one; `start` is the row of its first, or less."""
    vectors = read_descriptor_folder(folder).vectors
    return _num_before_each(queries, vectors, judged, own_scores, _BLOCK, start)


def _num_before_each(
    queries: Float[np.ndarray, "q d"],
    database: Rows,
    judged: Sequence[Int[np.ndarray, " j"]],
    own_scores: Sequence[Float[np.ndarray, " j"]],
    block: int,
    start: int = 0,
) -> list[Int[np.ndarray, " j"]]:
    ranks = [np.zeros(len(rows), np.int64) for rows in judged]
    step = range(0, len(database), block)
    for first, scores in progress(
        score_blocks(queries, database, block), desc="rank", unit="block", total=len(step)
    ):
        for query, rows in enumerate(judged):
            ranks[query] += _num_before(scores[query], start + first, rows, own_scores[query])
    return ranks


def ranks_in(ranking: Int[np.ndarray, " r"], rows: Int[np.ndarray, " j"]) -> Int[np.ndarray, " j"]:
    """Zero-based ranks of `rows` in `ranking`, different rows of a database; `NEVER` for those not in it."""
    if not len(ranking):
        return np.full(len(rows), NEVER)
    order = np.argsort(ranking)
    place = np.searchsorted(ranking, rows, sorter=order).clip(max=len(ranking) - 1)
    return np.where(ranking[order[place]] == rows, order[place], NEVER)


def _scores_of(
    queries: Float[np.ndarray, "q d"], database: Rows, judged: Sequence[Int[np.ndarray, " j"]], block: int
) -> list[Float[np.ndarray, " j"]]:
    """Scores of the judged rows, from the same matrix products that everything is counted with.

    A product of other shape may round differently, and a copy of a judged row would no longer tie with it.
    """
    found = [np.empty(len(rows), np.float32) for rows in judged]
    needed = np.unique(np.concatenate([rows // block for rows in judged]))
    for number in needed.tolist():
        first = number * block
        ((_, scores),) = score_blocks(queries, database[first : first + block], block)
        for query, rows in enumerate(judged):
            inside = rows // block == number
            found[query][inside] = scores[query, rows[inside] - first]
    return found


def _num_before(
    scores: Float[np.ndarray, " b"],
    first_row: int,
    rows: Int[np.ndarray, " j"],
    own_scores: Float[np.ndarray, " j"],
) -> Int[np.ndarray, " j"]:
    """How many of the block's rows, with `scores` from `first_row` on, stand before each of `rows`.

    Rows are counted by buckets of scores, several times faster than sorting them. Rounding never turns the
    order of two scores round, so only rows in the very bucket of a judged one are compared with it, by their
    keys, which decide ties too.
    """
    if not len(rows):
        return np.empty(0, np.int64)
    span = own_scores.min(), own_scores.max()
    bucket, own_bucket = _bucket(scores, *span), _bucket(own_scores, *span)
    counts = np.bincount(bucket, minlength=_BUCKETS)
    counts[own_bucket] = 0
    num_in_higher = counts[::-1].cumsum()[::-1]
    is_own = np.zeros(_BUCKETS, bool)
    is_own[own_bucket] = True
    close = np.flatnonzero(is_own[bucket])
    rising = np.sort(keys(scores[close], first_row + close))
    num_close_before = len(rising) - np.searchsorted(rising, keys(own_scores, rows), side="right")
    num_before: np.ndarray = num_in_higher[own_bucket] + num_close_before
    return num_before


def _bucket(
    scores: Float[np.ndarray, " b"], lowest: np.float32, highest: np.float32
) -> Int[np.ndarray, " b"]:
    """A number from 0 to `_BUCKETS` - 1 that never falls as the score rises; what is lower has the first."""
    scale = np.float32(min((_BUCKETS - 3) / max(float(highest) - float(lowest), 1e-30), 1e30))
    with np.errstate(over="ignore"):
        position = (scores - lowest) * scale
    position += np.float32(1.0)
    return np.clip(position, 0.0, _BUCKETS - 1, out=position).astype(np.intp)


def _check(
    queries: Float[np.ndarray, "q d"], database: Rows, judged: Sequence[Int[np.ndarray, " j"]]
) -> None:
    if queries.shape != (len(judged), database.shape[1]):
        raise ValueError(
            f"ranks: expected ({len(judged)}, {database.shape[1]}) queries, one for each list of judged rows "
            f"and as long as the database's descriptors, got {queries.shape}; "
            "describe both with the same network and whitening"
        )
    for query, rows in enumerate(judged):
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(database):
            wrong = rows[(rows < 0) | (rows >= len(database))][0]
            raise ValueError(
                f"ranks: expected rows 0 to {len(database) - 1} for query {query}, got {wrong}; "
                "give the ground truth of this database"
            )
