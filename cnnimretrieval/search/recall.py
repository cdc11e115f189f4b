"""What an index misses and saves, against exact search over the same descriptors."""

import time
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from cnnimretrieval.search.index import SavedIndex
from groundwork import top_k

_NEIGHBOURS = 10


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Recall@10 against exact search, and seconds a query of either."""

    recall: float
    seconds: float
    exact_seconds: float


def measure(index: SavedIndex, num_queries: int = 200) -> Quality:
    """Share of the ten nearest others that are found, of rows spread over the database; times of a query.

    Fewer than ten where there are fewer others.
    """
    n = len(index.vectors)
    asked = np.unique(np.linspace(0, n - 1, min(n, num_queries)).astype(np.int64))
    queries = np.asarray(index.vectors[asked], np.float32)
    k = min(_NEIGHBOURS, n - 1)
    hits, seconds, exact_seconds = 0, 0.0, 0.0
    for row, query in zip(asked.tolist(), queries, strict=True):
        started = time.perf_counter()
        found = index.search(query[None], k + 1).rows[0]
        between = time.perf_counter()
        exact = top_k.search(query[None], index.vectors, k + 1).rows[0]
        exact_seconds += time.perf_counter() - between
        seconds += between - started
        hits += len(np.intersect1d(_others(found, row, k), _others(exact, row, k)))
    return Quality(
        recall=hits / (k * len(asked)) if k else 1.0,
        seconds=seconds / len(asked),
        exact_seconds=exact_seconds / len(asked),
    )


def _others(rows: Int[np.ndarray, " k"], own: int, k: int) -> Int[np.ndarray, " o"]:
    others: np.ndarray = rows[rows != own][:k]
    return others
