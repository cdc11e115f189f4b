"""Hard negatives: ours against the reference's algorithm and against the matrix product that both need.

Random unit descriptors; clusters of Zipf's sizes; one thread with OMP_NUM_THREADS=1. The reference sorts the
whole pool for every query and walks down until it has one image of each of five other clusters; here that is
written plainly and is the oracle too. Goals: the same negatives in the same order, at most 1.3 x the time of
the matrix product alone, at least 3 x quicker than the reference's algorithm.
"""

import sys
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int

from experiments.benchmarks.measuring.measure import (
    Claim,
    add_kind,
    arguments,
    conclude,
    median,
    print_times,
    take_turns,
)
from pairs.negatives import NegativesConfig, mine_hard_negatives


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("--queries", type=int, default=2000, help="[%(default)s]")
    parser.add_argument("--pool", type=int, default=20000, help="images searched [%(default)s]")
    parser.add_argument("--dim", type=int, default=2048, help="of the descriptors [%(default)s]")
    parser.add_argument("--clusters", type=int, default=700, help="[%(default)s]")
    parser.add_argument("--repeats", type=int, default=3, help="rounds [%(default)s]")
    add_kind(parser)
    given = parser.parse_args(words)
    rng = np.random.default_rng(0)
    queries, pool = (_unit(rng, count, given.dim) for count in (given.queries, given.pool))
    size = 1.0 / np.arange(1, given.clusters + 1)
    query_cluster, cluster = (
        rng.choice(given.clusters, count, p=size / size.sum()) for count in (given.queries, given.pool)
    )
    count = NegativesConfig().num_negatives
    found = take_turns(
        {
            "matrix product": lambda: _product(queries, pool),
            "ours": lambda: (
                mine_hard_negatives(
                    queries, query_cluster, pool, cluster, cluster, NegativesConfig()
                ).pool_row
            ),
            "the reference's algorithm": lambda: sort_and_walk(queries, query_cluster, pool, cluster, count),
        },
        given.repeats,
    )
    print_times(found)
    product, ours, reference = (median(rounds, given.kind) for rounds in found.values())
    same = (found["ours"][0][0] == found["the reference's algorithm"][0][0]).all(axis=1).mean()
    return conclude(
        [
            Claim(what="share of queries with the same negatives", measured=same, limit=1.0, at_least=True),
            Claim(what="time over the product's", measured=ours / product, limit=1.3, at_least=False),
            Claim(what="times quicker", measured=reference / ours, limit=3.0, at_least=True),
        ]
    )


def sort_and_walk(
    queries: Float[np.ndarray, "q d"],
    query_cluster: Int[np.ndarray, " q"],
    pool: Float[np.ndarray, "p d"],
    cluster: Int[np.ndarray, " p"],
    count: int,
) -> Int[np.ndarray, "q k"]:
    """Rows of the pool: a ranking of all of it, walked down; -1 where it ends too early.

    In torch, as the reference: scores with queries in columns, every column sorted, ranks read one by one.
    """
    scores = torch.mm(torch.from_numpy(pool), torch.from_numpy(queries).T)
    _, ranks = torch.sort(scores, dim=0, descending=True)
    chosen = np.full((len(queries), count), -1, dtype=np.int64)
    for number, own in enumerate(query_cluster):
        taken: set[int] = {int(own)}
        found: list[int] = []
        place = 0
        while len(found) < count and place < len(pool):
            row = int(ranks[place, number])
            if int(cluster[row]) not in taken:
                taken.add(int(cluster[row]))
                found.append(row)
            place += 1
        chosen[number, : len(found)] = found
    return chosen


def _product(queries: Float[np.ndarray, "q d"], pool: Float[np.ndarray, "p d"]) -> Int[np.ndarray, "0 k"]:
    queries @ pool.T
    return np.empty((0, 1), dtype=np.int64)


def _unit(rng: np.random.Generator, count: int, dim: int) -> Float[np.ndarray, "n d"]:
    vectors = rng.standard_normal((count, dim), dtype=np.float32)
    unit: Float[np.ndarray, "n d"] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


if __name__ == "__main__":
    sys.exit(main())
