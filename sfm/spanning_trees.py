"""Pairs of a maximum spanning tree of all images' similarities, and of further ones beside it."""

import numpy as np
from jaxtyping import Bool, Float32, Int, Int32, Int64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from groundwork.shards import Selection, blocks
from groundwork.top_k import score_blocks
from sfm.paircodes import decode, encode, sort_unique

_QUERY_BLOCK, _DATABASE_BLOCK = 1024, 16384


def spanning_pairs(
    vectors: Float32[np.ndarray, "n d"], usable: Bool[np.ndarray, " n"], trees: int
) -> Int32[np.ndarray, "p 2"]:
    """Unique pairs of usable rows, smaller row first: `trees` spanning trees with no pair in common.

    Each is the maximum spanning tree, by inner product, of the pairs that earlier ones left: at most trees *
    (rows - 1) pairs, which keep the rows connected when any trees - 1 of them are taken away. Nearest
    neighbours do not: two groups of photos whose nearest ones are all their own stay apart. O. Boruvka,
    1926: each part takes its best pair to another one, all at once, until there is one part. That takes at
    most log2(rows) searches of all rows a tree; memory grows with the pairs found.
    """
    rows = np.flatnonzero(usable)
    found = np.empty(0, dtype=np.int64)
    for _ in range(trees):
        found = sort_unique(np.concatenate([found, _tree(Selection(vectors, rows), found)]))
    pairs: Int32[np.ndarray, "p 2"] = rows[decode(found, max(1, len(rows)))].astype(np.int32)
    return pairs


def _tree(vectors: Selection, taken: Int64[np.ndarray, " t"]) -> Int64[np.ndarray, " p"]:
    """The pairs of the tree as codes; those of each part, where what is `taken` leaves several."""
    size = len(vectors)
    part: Int[np.ndarray, " n"] = np.arange(size)
    tree = np.empty(0, dtype=np.int64)
    while part.max(initial=0):
        score, other = _best_outside(vectors, part, taken)
        code = encode(np.minimum(np.arange(size), other), np.maximum(np.arange(size), other), size)
        # Of each part the best pair, of equals the first; none where all to other parts are taken.
        order = np.lexsort((code, -score, part))
        first = np.ones(size, dtype=np.bool_)
        first[1:] = np.diff(part[order]) != 0
        chosen = order[first & np.isfinite(score[order])]
        if not len(chosen):
            return tree
        tree = sort_unique(np.concatenate([tree, code[chosen]]))
        ends = decode(tree, size)
        links = coo_array((np.ones(len(ends), dtype=np.int8), ends.T), shape=(size, size))
        part = connected_components(links, directed=False)[1]
    return tree


def _best_outside(
    vectors: Selection, part: Int[np.ndarray, " n"], taken: Int64[np.ndarray, " t"]
) -> tuple[Float32[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Of each row the best row of another part, with which it is not taken, and their inner product."""
    size = len(vectors)
    score, other = np.full(size, -np.inf, dtype=np.float32), np.zeros(size, dtype=np.int64)
    pairs = decode(taken, size)
    ends = np.concatenate([pairs, pairs[:, ::-1]])
    for first, block in blocks(vectors, _QUERY_BLOCK):
        own = slice(first, first + len(block))
        mine = ends[(ends[:, 0] >= own.start) & (ends[:, 0] < own.stop)]
        for start, scores in score_blocks(block, vectors, _DATABASE_BLOCK):
            scores[part[own, None] == part[None, start : start + scores.shape[1]]] = -np.inf
            here = mine[(mine[:, 1] >= start) & (mine[:, 1] < start + scores.shape[1])]
            scores[here[:, 0] - first, here[:, 1] - start] = -np.inf
            best = scores.argmax(axis=1)
            reached = scores[np.arange(len(block)), best]
            better = reached > score[own]
            score[own][better], other[own][better] = reached[better], start + best[better]
    return score, other
