"""Which pairs a second local feature is tried on, and which of those that it verifies count."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int, Int32, Int64
from scipy.sparse import csr_array

from groundwork.arrays import slices
from sfm.pair_table import WATERMARK, image_rows
from sfm.paircodes import encode

# Pairs that are looked through at a time.
_BLOCK = 65_536
# Two places of fewer photos each prove too little to be joined.
_MIN_PLACE = 3


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What makes a tie, and what joins places.

    Attributes:
        enough_pairs: trusted pairs of an image that is not loosely tied, at least.
        enough_inliers: of each of these.
        across_pairs: verified pairs that join two places, at least; 0: none are joined.
        across_inliers: of each of these.

    """

    enough_pairs: int
    enough_inliers: int
    across_pairs: int
    across_inliers: int


@dataclass(frozen=True, kw_only=True, eq=False)
class PairChoice:
    """What the first feature says of the pairs it tried, a row each, and of images, by image_id - 1.

    Attributes:
        rows: both images of each pair.
        trusted: whether the pair is in the graph.
        place: of each image, -1 for none.
        loose: whether an image is tied to few others.
        chosen: the pairs to try again.

    """

    rows: Int32[np.ndarray, "p 2"]
    trusted: Bool[np.ndarray, " p"]
    place: Int32[np.ndarray, " n"]
    loose: Bool[np.ndarray, " n"]
    chosen: Bool[np.ndarray, " p"]

    @property
    def images(self) -> Bool[np.ndarray, " n"]:
        """The images of the pairs to try again."""
        found = np.zeros(len(self.place), dtype=np.bool_)
        found[self.rows[self.chosen].ravel()] = True
        return found

    def among_neighbours(self, found: Int32[np.ndarray, "k 2"]) -> Bool[np.ndarray, " p"]:
        """The trusted pairs of images not loose that one loose image matches both, in the pairs `found`."""
        ties = np.concatenate([found, found[:, ::-1]])
        loose, image = ties[self.loose[ties[:, 0]]].T
        size = len(self.place)
        matched_by = csr_array((np.ones(len(loose), dtype=np.int32), (image, loose)), shape=(size, size))
        candidates = np.flatnonzero(self.trusted & ~self.loose[self.rows].any(axis=1))
        among = np.zeros(len(self.rows), dtype=np.bool_)
        for part in slices(len(candidates), _BLOCK):
            rows = candidates[part]
            one, two = self.rows[rows].T
            among[rows] = matched_by[one].multiply(matched_by[two]).sum(axis=1) > 0
        return among


def choose_pairs(
    tried: pd.DataFrame, graph: pd.DataFrame, place: Int32[np.ndarray, " n"], min_inliers: int, limits: Limits
) -> PairChoice:
    """Of the pairs that were tried those of loosely tied images, both in one place, or in two of some size.

    `tried` has the columns `sfm.pair_table.MATCHED`; `graph` are those of its pairs that have `min_inliers`,
    are trusted, and were taken out by no filter, `place` what they connect. What has enough inliers and is
    not in `graph` shows print, or look-alikes: it is not tried again.
    """
    rows = image_rows(tried)
    good = image_rows(graph[graph["inliers"] >= limits.enough_inliers])
    loose = np.bincount(good.ravel(), minlength=len(place)) < limits.enough_pairs
    trusted = np.isin(_codes(rows, len(place)), _codes(image_rows(graph), len(place)))
    taken_out = (tried["inliers"] >= min_inliers).to_numpy() & ~trusted
    taken_out |= (tried["geometry_kind"] == WATERMARK).to_numpy()
    places = place[rows]
    of_places = (places >= 0).all(axis=1)
    within = of_places & (places[:, 0] == places[:, 1])
    size = np.append(np.bincount(place + 1)[1:], 0)  # the last is that of place -1
    across = of_places & ~within & (size[places].max(axis=1) >= _MIN_PLACE) & (limits.across_pairs > 0)
    chosen = (within | across) & loose[rows].any(axis=1) & ~taken_out
    return PairChoice(rows=rows, trusted=trusted, place=place, loose=loose, chosen=chosen)


def supported(found: pd.DataFrame, place: Int32[np.ndarray, " n"], limits: Limits) -> pd.DataFrame:
    """What a second feature verified; pairs that join two places have no inliers where they are too few."""
    places = np.sort(place[image_rows(found)], axis=1)
    across = places[:, 0] != places[:, 1]
    strong = across & (found["inliers"] >= limits.across_inliers).to_numpy()
    joint = encode(places[:, 0], places[:, 1], len(place))
    joints, count = np.unique(joint[strong], return_counts=True)
    joined = strong & np.isin(joint, joints[count >= max(1, limits.across_pairs)])
    return found.assign(inliers=np.where(across & ~joined, 0, found["inliers"]).astype(np.int32))


def _codes(rows: Int[np.ndarray, "p 2"], num_images: int) -> Int64[np.ndarray, " p"]:
    return encode(rows[:, 0], rows[:, 1], num_images)
