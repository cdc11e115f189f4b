"""Nearest neighbours of every descriptor among the others of its own collection, block by block."""

from collections.abc import Iterator

import numpy as np

from groundwork.shards import Rows, blocks
from groundwork.top_k import Ranking, search

_BLOCK = 1024


def neighbours(database: Rows, k: int, *, block: int = _BLOCK) -> Iterator[tuple[int, Ranking]]:
    """For every `block` rows: the first of them, and the `k` other rows nearest to each, best first.

    Nearest by inner product, equal ones by rising row; a row is never its own neighbour, a copy of it is. A
    database of fewer rows gives as many as there are. Time grows with the square of the number of rows,
    memory does not.
    """
    k = min(k, len(database) - 1)
    for first, queries in blocks(database, block):
        if k < 1:
            empty = np.empty((len(queries), 0))
            yield first, Ranking(rows=empty.astype(np.int64), scores=empty.astype(np.float32))
            continue
        found = search(queries, database, k + 1, query_block=block)
        own = found.rows == np.arange(first, first + len(queries))[:, None]
        # Where more than k copies come before it, the row itself is not among them: the last one goes.
        own[~own.any(axis=1), -1] = True
        kept = (len(queries), k)
        yield first, Ranking(rows=found.rows[~own].reshape(kept), scores=found.scores[~own].reshape(kept))
