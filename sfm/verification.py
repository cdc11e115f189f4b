"""The geometry of an image pair that print on both photos does not account for."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64, UInt32

from sfm.featurestore import ImageFeatures
from sfm.marks import MatchedPoints, find_print
from sfm.paircodes import MAX_KEYPOINTS, encode

if TYPE_CHECKING:
    from sfm.colmap.calls import PairGeometry


def verify_behind_print(
    verify: "Callable[[UInt32[np.ndarray, 'n 2']], PairGeometry]",
    one: ImageFeatures,
    two: ImageFeatures,
    matches: UInt32[np.ndarray, "n 2"],
) -> "PairGeometry":
    """What `verify` finds in the matches of a pair; where that is print, what it finds without the print.

    A bar or a frame gives more matches than a place that is seen from two sides, and hides it: robust
    estimation finds the largest group. Where nothing is behind the print, the print itself is returned, for
    the filters of pairs to judge.
    """
    first = geometry = verify(matches)
    while len(on_print := _on_print(one, two, geometry.inliers)):
        matches = matches[~np.isin(_numbers(matches), _numbers(on_print))]
        geometry = verify(matches)
    return geometry if len(geometry.inliers) else first


def _on_print(
    one: ImageFeatures, two: ImageFeatures, inliers: UInt32[np.ndarray, "n 2"]
) -> UInt32[np.ndarray, "k 2"]:
    """The inliers that print explains, where it explains the pair."""
    if not len(inliers):  # most pairs of a mixed collection
        return inliers
    matched = MatchedPoints(
        one=one.keypoints[inliers[:, 0], :2],
        two=two.keypoints[inliers[:, 1], :2],
        pair=np.zeros(len(inliers), dtype=np.int64),
        sizes=np.array([[(one.width, one.height), (two.width, two.height)]]),
    )
    return np.asarray(inliers[find_print(matched).matches])


def _numbers(matches: UInt32[np.ndarray, "n 2"]) -> Int64[np.ndarray, " n"]:
    return encode(matches[:, 0], matches[:, 1], MAX_KEYPOINTS)
