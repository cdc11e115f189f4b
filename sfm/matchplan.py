"""Which image pairs are matched together: candidates, and what was matched before, dealt out to blocks."""

from dataclasses import dataclass
from math import ceil

import numpy as np
import pandas as pd
from jaxtyping import Int, Int32, Int64
from pandas.api.types import union_categoricals
from scipy.sparse import coo_array
from scipy.sparse.csgraph import reverse_cuthill_mckee

from groundwork.arrays import slices
from sfm.pair_table import ENDS
from sfm.paircodes import decode, encode, with_new

_MAX_BLOCK = 1000
# Below this, starting a task and reading its images costs a quarter of the matching.
_MIN_BLOCK = 64
# Pairs that are looked up at a time.
_ROWS = 1 << 20


@dataclass(frozen=True, kw_only=True, eq=False)
class MatchPlan:
    """All pairs of a collection with their blocks.

    Attributes:
        image_ids: of both images of each pair, the smaller first, sorted.
        origin: where each pair comes from.
        block: of each pair.
        by_block: the rows of all pairs, block by block.
        starts: where each block starts in `by_block`, with the end of the last.

    """

    image_ids: Int32[np.ndarray, "p 2"]
    origin: pd.Categorical
    block: Int32[np.ndarray, " p"]
    by_block: Int32[np.ndarray, " p"]
    starts: Int[np.ndarray, " b"]

    @property
    def num_blocks(self) -> int:
        """Blocks are numbered from 0."""
        return len(self.starts) - 1

    def rows(self, block: int) -> Int32[np.ndarray, " k"]:
        """The rows of the pairs of a block, rising."""
        return self.by_block[self.starts[block] : self.starts[block + 1]]


def plan_matches(candidates: pd.DataFrame, before: pd.DataFrame, num_images: int) -> MatchPlan:
    """Plan the pairs of both tables, each with the block that it has `before`, or a new one.

    `candidates` have the columns `sfm.pair_table.PROPOSED`, pairs from `before`, which are sorted, those of
    `PLANNED`. Who proposes a pair now counts more than who did before.
    """
    wanted, known = (_codes(table, num_images) for table in (candidates, before))
    origins = union_categoricals([table["origin"].astype("category") for table in (candidates, before)])
    known_block = before["block"].to_numpy()
    del before  # of tens of millions of pairs each table and array weighs
    every = with_new(known, wanted)
    origin = np.empty(len(every), dtype=np.int8)
    block = np.full(len(every), -1, dtype=np.int32)
    for part in slices(len(known), _ROWS):
        rows = np.searchsorted(every, known[part])
        origin[rows], block[rows] = origins.codes[len(wanted) :][part], known_block[part]
    for part in slices(len(wanted), _ROWS):
        origin[np.searchsorted(every, wanted[part])] = origins.codes[part]
    del wanted, known
    new = block < 0
    block[new] = int(known_block.max(initial=-1)) + 1 + _deal(every[new], num_images)
    order = np.argsort(block, kind="stable")
    starts = np.searchsorted(block, np.arange(block.max(initial=-1) + 2, dtype=np.int32), sorter=order)
    by_block = order.astype(np.int32)
    del order
    image_ids = decode(every, num_images)
    image_ids += 1
    return MatchPlan(
        image_ids=image_ids,
        origin=_used(pd.Categorical.from_codes(origin, origins.categories)),
        block=block,
        by_block=by_block,
        starts=starts,
    )


def _used(origin: pd.Categorical) -> pd.Categorical:
    """With those categories only that come up: looking at that first spares 30 bytes a row where all do."""
    all_used = len(np.unique(origin.codes)) == len(origin.categories)
    return origin if all_used else origin.remove_unused_categories()


def _codes(table: pd.DataFrame, num_images: int) -> Int64[np.ndarray, " p"]:
    """One number a pair, in the order of the pairs."""
    one, two = (table[name].to_numpy(dtype=np.int64) - 1 for name in ENDS)
    return encode(one, two, num_images)


def _deal(codes: Int64[np.ndarray, " p"], num_images: int) -> Int32[np.ndarray, " p"]:
    """A block for each pair, such that a block touches few images, each of which has to be read."""
    if not len(codes):
        return np.empty(0, dtype=np.int32)
    pairs = decode(codes, num_images)
    del codes
    place_in_order = np.empty(num_images, dtype=np.int32)
    place_in_order[_neighbours_together(pairs, num_images)] = np.arange(num_images)
    pairs = place_in_order[pairs]
    pairs.sort(axis=1)
    codes = encode(pairs[:, 0], pairs[:, 1], num_images)
    del pairs
    order = np.argsort(codes, kind="stable")
    del codes
    number = np.arange(len(order), dtype=np.int32)
    number //= min(_MAX_BLOCK, max(_MIN_BLOCK, ceil(len(order) / 48)))
    block = np.empty(len(order), dtype=np.int32)
    block[order] = number
    return block


def _neighbours_together(pairs: Int32[np.ndarray, "p 2"], num_images: int) -> Int32[np.ndarray, " n"]:
    """All rows, in an order in which those of a pair are near each other."""
    ones = np.ones(len(pairs), dtype=np.int8)
    links = coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(num_images,) * 2).tocsr()
    order: Int32[np.ndarray, " n"] = reverse_cuthill_mckee((links + links.T).tocsr(), symmetric_mode=True)
    return order
