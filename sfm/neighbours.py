"""Nearest neighbours of global descriptors, block by block, and the union of pairs from several sources."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Int

_BLOCK = 2048


def neighbour_pairs(
    vectors: Float32[np.ndarray, "n d"], usable: Bool[np.ndarray, " n"], neighbours: int
) -> Int[np.ndarray, "p 2"]:
    """Unique pairs of usable rows, one among the other's nearest by inner product; smaller row first.

    Works block by block, on a memory map too: memory grows with the pairs found, not with the square of n.
    """
    rows = np.flatnonzero(usable)
    wanted = min(neighbours, len(rows) - 1)
    if wanted < 1:
        return np.empty((0, 2), dtype=np.int64)
    codes = []
    for start in range(0, len(rows), _BLOCK):
        queries = rows[start : start + _BLOCK]
        nearest = _nearest(vectors, queries, rows, wanted)
        pairs = np.sort(np.column_stack([np.repeat(queries, wanted), nearest.ravel()]), axis=1)
        codes.append(_encode(pairs, len(vectors)))
    return _decode(np.unique(np.concatenate(codes)), len(vectors))


def union(sources: Mapping[str, Int[np.ndarray, "p 2"]], num_rows: int) -> pd.DataFrame:
    """All pairs of rows as `image_id1 < image_id2` (row + 1), sorted, with `origin`: its sources, by +.

    The pairs of a source are unique, the smaller row first. A pair takes 9 bytes: ids are int32, origins
    categories.
    """
    codes = {name: _encode(pairs, num_rows) for name, pairs in sources.items()}
    every = np.unique(np.concatenate([*codes.values(), np.empty(0, np.int64)]))
    members = np.zeros(len(every), dtype=np.uint8)
    for number, found in enumerate(codes.values()):
        members[np.searchsorted(every, found)] |= np.uint8(1 << number)
    del codes
    kinds = np.flatnonzero(np.bincount(members))
    names = [
        "+".join(name for number, name in enumerate(sources) if kind >> number & 1) for kind in kinds.tolist()
    ]
    kind_of_members = np.zeros(256, dtype=np.int8)
    kind_of_members[kinds] = np.arange(len(kinds))
    origin = pd.Categorical.from_codes(kind_of_members[members], pd.Index(names, dtype="str"))
    ids = {"image_id1": every // num_rows + 1, "image_id2": every % num_rows + 1}
    return pd.DataFrame({name: each.astype(np.int32) for name, each in ids.items()} | {"origin": origin})


def _encode(pairs: Int[np.ndarray, "p 2"], num_rows: int) -> Int[np.ndarray, " p"]:
    """One number a pair, in the order of the pairs: a million rows make numbers of 40 bits."""
    codes: Int[np.ndarray, " p"] = pairs[:, 0] * num_rows + pairs[:, 1]
    return codes


def _decode(codes: Int[np.ndarray, " p"], num_rows: int) -> Int[np.ndarray, "p 2"]:
    return np.column_stack(np.divmod(codes, num_rows))


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
