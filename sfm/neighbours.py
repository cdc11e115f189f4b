"""Nearest neighbours of global descriptors, block by block, and the union of pairs from several sources."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Int, Int32, UInt8

from groundwork.files import release
from sfm.paircodes import decode, encode, first_of_equal, sort_unique

_BLOCK = 2048
# Bits of a number that say which source proposes the pair.
_SOURCE_BITS = 3


def neighbour_pairs(
    vectors: Float32[np.ndarray, "n d"], usable: Bool[np.ndarray, " n"], neighbours: int
) -> Int32[np.ndarray, "p 2"]:
    """Unique pairs of usable rows, one among the other's nearest by inner product; smaller row first.

    Works block by block, on a memory map too: memory grows with the pairs found, not with the square of n.
    """
    rows = np.flatnonzero(usable)
    wanted = min(neighbours, len(rows) - 1)
    if wanted < 1:
        return np.empty((0, 2), dtype=np.int32)
    codes = np.empty((len(rows), wanted), dtype=np.int64)
    for start in range(0, len(rows), _BLOCK):
        queries = rows[start : start + _BLOCK]
        nearest, own = _nearest(vectors, queries, rows, wanted), queries[:, None]
        smaller, larger = np.minimum(own, nearest), np.maximum(own, nearest)
        codes[start : start + _BLOCK] = encode(smaller, larger, len(vectors))
    return decode(sort_unique(codes.ravel()), len(vectors))


def union(sources: Mapping[str, Int[np.ndarray, "p 2"]], num_rows: int) -> pd.DataFrame:
    """All pairs of rows as `image_id1 < image_id2` (row + 1), sorted, with `origin`: its sources, by +.

    The pairs of a source are unique, the smaller row first. A pair takes 9 bytes: ids are int32, origins
    categories. Of the at most 8 sources together it takes some 20 bytes more on the way.
    """
    # The source is the last digits of a pair's number: one sort brings all who propose a pair together.
    marked = np.empty(sum(map(len, sources.values())), dtype=np.int64)
    start = 0
    for number, pairs in enumerate(sources.values()):
        part = marked[start : start + len(pairs)]
        part[:] = encode(pairs[:, 0], pairs[:, 1], num_rows)
        part <<= _SOURCE_BITS
        part += number
        start += len(pairs)
    marked.sort()
    proposers = np.left_shift(np.uint8(1), marked.astype(np.uint8) & ((1 << _SOURCE_BITS) - 1))
    marked >>= _SOURCE_BITS
    starts = np.flatnonzero(first_of_equal(marked))
    codes = marked[starts]
    del marked
    members = np.bitwise_or.reduceat(proposers, starts) if len(starts) else proposers
    del starts, proposers
    pairs = decode(codes, num_rows)
    del codes
    pairs += 1
    ids = pd.DataFrame(pairs, columns=["image_id1", "image_id2"])
    return ids.assign(origin=_origins(members, tuple(sources)))


def _origins(members: UInt8[np.ndarray, " p"], sources: Sequence[str]) -> pd.Categorical:
    """The names of the sources whose bits are set, by +."""
    kinds = np.flatnonzero(np.bincount(members))
    names = [
        "+".join(name for number, name in enumerate(sources) if kind >> number & 1) for kind in kinds.tolist()
    ]
    kind_of_members = np.zeros(256, dtype=np.int8)
    kind_of_members[kinds] = np.arange(len(kinds))
    return pd.Categorical.from_codes(kind_of_members[members], pd.Index(names, dtype="str"))


def _nearest(
    vectors: Float32[np.ndarray, "n d"],
    queries: Int[np.ndarray, " q"],
    rows: Int[np.ndarray, " m"],
    wanted: int,
) -> Int[np.ndarray, "q k"]:
    """The `wanted` rows of highest inner product with each query, itself left out; of equals the first.

    A block's scores are compared with the worst that a query holds already; only what beats it is sorted.
    """
    query_vectors = np.asarray(vectors[queries])
    best_rows = np.full((len(queries), wanted), -1, dtype=np.int64)
    best_scores = np.full((len(queries), wanted), -np.inf, dtype=np.float32)
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        scores = query_vectors @ np.asarray(vectors[block]).T
        release(vectors)
        if queries[0] <= block[-1] and block[0] <= queries[-1]:
            scores[queries[:, None] == block] = -np.inf
        floor = best_scores[:, -1]
        if start == 0 and len(block) > wanted:
            # Nothing is held yet: everything as good as this block's own k-th is let through.
            floor = np.nextafter(np.partition(scores, -wanted, axis=1)[:, -wanted], np.float32(-np.inf))
        query, column = np.nonzero(scores > floor[:, None])
        beaten = np.unique(query)
        owner = np.concatenate([np.repeat(beaten, wanted), query])
        score = np.concatenate([best_scores[beaten].ravel(), scores[query, column]])
        row = np.concatenate([best_rows[beaten].ravel(), block[column]])
        order = np.lexsort((row, -score, owner))
        first = np.searchsorted(owner[order], beaten)
        kept = order[first[:, None] + np.arange(wanted)]
        best_rows[beaten], best_scores[beaten] = row[kept], score[kept]
    return best_rows
