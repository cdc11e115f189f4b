"""A pair filter: matches that do not move belong to a frame, a date or a logo that both photos carry."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt32

from sfm.pair_filters.interface import Verdict, VerifiedPairs

# A pair is judged by its matches when at least this share of them lies where it lay in the other photo.
_UNMOVED_SHARE = 0.8
# Unmoved: by this much of the longer side, but at least 2 px.
_TOLERANCE = 0.002
_MIN_TOLERANCE_PX = 2.0
# COLMAP looks for watermarks in a border of a tenth of the diagonal.
_BORDER = 0.1
_BORDER_SHARE = 0.8
# A logo may also stand elsewhere: its matches fill little of the photo. Those of a camera on a tripod, which
# are unmoved too and prove the same place, are spread.
_PATCH_AREA = 0.1


def drop_stationary(verified: VerifiedPairs) -> Verdict:
    """Take out pairs whose matches stand still in the border or in a small patch of both photos.

    Places are measured from the corner that explains most: photos of different sizes carry their marks at the
    same distance from one of their corners.
    """
    reasons = np.full(len(verified.pairs), "", dtype=object)
    ends = verified.pairs[["image_id1", "image_id2"]].to_numpy(dtype=np.int64)
    for rows, inliers in verified.read_inliers(np.arange(len(ends))):
        one, two = _matched_points(verified, ends[rows], inliers)
        starts = np.concatenate([[0], np.cumsum([len(matches) for matches in inliers])])
        sizes = verified.sizes[ends[rows] - 1]
        unmoved, share = _unmoved(one, two, sizes, starts)
        for pair in np.flatnonzero(share >= _UNMOVED_SHARE).tolist():
            own = slice(starts[pair], starts[pair + 1])
            points = (one[own][unmoved[own]], two[own][unmoved[own]])
            reasons[rows[pair]] = _reason(points, sizes[pair])
    keep = reasons == ""
    return Verdict(keep=keep, reasons=reasons[~keep])


def _matched_points(
    verified: VerifiedPairs, ends: Int[np.ndarray, "p 2"], inliers: Sequence[UInt32[np.ndarray, "_ 2"]]
) -> tuple[Float32[np.ndarray, "m 2"], Float32[np.ndarray, "m 2"]]:
    """Where the matches of some pairs lie in the first photo and in the second, pair after pair."""
    image_ids, image = np.unique(ends, return_inverse=True)
    found = verified.keypoints(image_ids.tolist())
    keypoints = [found[image_id] for image_id in image_ids.tolist()]
    first = np.cumsum([0, *map(len, keypoints)])[image.reshape(-1, 2)]
    rows = np.concatenate(inliers) + np.repeat(first, [len(matches) for matches in inliers], axis=0)
    points = np.concatenate(keypoints)
    return points[rows[:, 0]], points[rows[:, 1]]


def _reason(
    points: tuple[Float32[np.ndarray, "m 2"], Float32[np.ndarray, "m 2"]], sizes: Int[np.ndarray, "2 2"]
) -> str:
    """Why the unmoved matches of a pair prove nothing; empty if they do."""
    photos = tuple(zip(points, sizes, strict=True))
    if all(_in_border(each, size).mean() >= _BORDER_SHARE for each, size in photos):
        return "unmoved in the border"
    if all(_area_share(each, size) <= _PATCH_AREA for each, size in photos):
        return "unmoved in a small patch"
    return ""


def _unmoved(
    one: Float32[np.ndarray, "m 2"],
    two: Float32[np.ndarray, "m 2"],
    sizes: Int[np.ndarray, "p 2 2"],
    starts: Int[np.ndarray, " p1"],
) -> tuple[Bool[np.ndarray, " m"], Float[np.ndarray, " p"]]:
    """Which matches lie at the same place, seen from the corner from which most of their pair do.

    And their share of each pair. The matches of pair k are those from `starts[k]` to `starts[k + 1]`.
    """
    counts = np.diff(starts)
    tolerance = np.maximum(_MIN_TOLERANCE_PX, _TOLERANCE * sizes.max(axis=(1, 2)))
    shift, grown = two - one, sizes[:, 1] - sizes[:, 0]
    best = np.zeros(len(one), dtype=np.bool_)
    most = np.zeros(len(counts), dtype=np.int64)
    for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
        apart = shift - np.repeat(grown * corner, counts, axis=0)
        still = np.linalg.norm(apart, axis=1) <= np.repeat(tolerance, counts)
        number = np.diff(np.concatenate([[0], np.cumsum(still)])[starts])
        better = np.repeat(number > most, counts)
        best[better] = still[better]
        most = np.maximum(most, number)
    return best, most / np.maximum(counts, 1)


def _in_border(points: Float32[np.ndarray, "m 2"], size: Int[np.ndarray, " 2"]) -> Bool[np.ndarray, " m"]:
    band = _BORDER * float(np.hypot(*size))
    return np.asarray(((points < band) | (points > size - band)).any(axis=1))


def _area_share(points: Float32[np.ndarray, "m 2"], size: Int[np.ndarray, " 2"]) -> float:
    """Share of the photo that the points' box fills, a twentieth of them left out on each side."""
    low: Float[np.ndarray, " 2"]
    low, high = np.quantile(points, [0.05, 0.95], axis=0)
    return float(np.prod((high - low) / size))
