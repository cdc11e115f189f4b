"""Image pairs as single numbers, 8 bytes each, sorted: the form in which sets of millions of pairs meet."""

import numpy as np
from jaxtyping import Bool, Int, Int32, Int64

from groundwork.arrays import slices

# More keypoints than any photo has: what number a keypoint by, or two of them, is made with.
MAX_KEYPOINTS = 1 << 31
# Pairs that are taken apart at a time: what that needs besides its result does not grow with their number.
_BLOCK = 1 << 20


def num_rows(*rows: Int[np.ndarray, "..."]) -> int:
    """The least number of rows that all of these can be among; one at least."""
    return 1 + max((int(some.max()) for some in rows if some.size), default=0)


def encode(
    first: Int[np.ndarray, "..."], second: Int[np.ndarray, "..."], num_rows: int
) -> Int64[np.ndarray, "..."]:
    """One number a pair of rows below `num_rows`, in the order of the pairs: a million rows take 40 bits."""
    codes: Int64[np.ndarray, ...] = first.astype(np.int64)
    codes *= num_rows
    codes += second
    return codes


def decode(codes: Int64[np.ndarray, " p"], num_rows: int) -> Int32[np.ndarray, "p 2"]:
    """The pairs of rows that `encode` made these numbers of."""
    pairs = np.empty((len(codes), 2), dtype=np.int32)
    for part in slices(len(codes), _BLOCK):
        pairs[part, 0], pairs[part, 1] = np.divmod(codes[part], num_rows)
    return pairs


def sort_unique(codes: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " p"]:
    """The numbers once each, rising. Sorts the array that is given, too: large ones are not to be doubled."""
    codes.sort()
    unique: Int64[np.ndarray, " p"] = codes[first_of_equal(codes)]
    return unique


def with_new(known: Int64[np.ndarray, " k"], codes: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " p"]:
    """The numbers of both once each, rising; `known` are so already, and come back themselves if all are."""
    if not len(known):
        return sort_unique(codes.copy())
    is_new = np.empty(len(codes), dtype=np.bool_)
    for part in slices(len(codes), _BLOCK):
        place = np.searchsorted(known, codes[part])
        is_new[part] = known[np.minimum(place, len(known) - 1)] != codes[part]
    return sort_unique(np.concatenate([known, codes[is_new]])) if is_new.any() else known


def first_of_equal(codes: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Where sorted numbers differ from the one before."""
    first = np.ones(len(codes), dtype=np.bool_)
    np.not_equal(codes[1:], codes[:-1], out=first[1:])
    return first
