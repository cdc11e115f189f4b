"""Pairs of images with near global descriptors, and the union of pairs from several sources."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Int, Int32, UInt8

from groundwork.shards import Selection
from groundwork.top_k import nearest_others
from sfm.pair_table import pair_table
from sfm.paircodes import decode, encode, first_of_equal, sort_unique

_BLOCK = 2048
# Bits of a number that say which source proposes the pair.
_SOURCE_BITS = 3


def neighbour_pairs(
    vectors: Float32[np.ndarray, "n d"], usable: Bool[np.ndarray, " n"], neighbours: int
) -> Int32[np.ndarray, "p 2"]:
    """Unique pairs of usable rows, one among the other's nearest by inner product; smaller row first.

    Of equals the first row is nearer. Memory grows with the pairs found, not with the square of n, nor with
    the size of a memory map.
    """
    rows = np.flatnonzero(usable)
    wanted = min(neighbours, len(rows) - 1)
    if wanted < 1:
        return np.empty((0, 2), dtype=np.int32)
    codes = np.empty((len(rows), wanted), dtype=np.int64)
    found = nearest_others(Selection(vectors, rows), wanted, query_block=_BLOCK, database_block=_BLOCK)
    for start, ranking in found:
        nearest, own = rows[ranking.rows], rows[start : start + len(ranking.rows), None]
        smaller, larger = np.minimum(own, nearest), np.maximum(own, nearest)
        codes[start : start + len(own)] = encode(smaller, larger, len(vectors))
    return decode(sort_unique(codes.ravel()), len(vectors))


def union(sources: Mapping[str, Int[np.ndarray, "p 2"]], num_rows: int) -> pd.DataFrame:
    """All pairs of rows as a table with the columns `sfm.pair_table.PROPOSED`, sorted.

    The pairs of a source are unique, the smaller row first. A pair takes 9 bytes in the table. Of the at most
    8 sources together it takes some 20 bytes more on the way.
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
    return pair_table(pairs, origin=_origins(members, tuple(sources)))


def _origins(members: UInt8[np.ndarray, " p"], sources: Sequence[str]) -> pd.Categorical:
    """The names of the sources whose bits are set, by +."""
    kinds = np.flatnonzero(np.bincount(members))
    names = [
        "+".join(name for number, name in enumerate(sources) if kind >> number & 1) for kind in kinds.tolist()
    ]
    kind_of_members = np.zeros(256, dtype=np.int8)
    kind_of_members[kinds] = np.arange(len(kinds))
    return pd.Categorical.from_codes(kind_of_members[members], pd.Index(names, dtype="str"))
