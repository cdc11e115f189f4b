"""A pair filter: matches that do not move belong to a frame, a date or a logo that both photos carry."""

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from sfm.pairfilters import Verdict, VerifiedPairs

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
        keypoints = verified.keypoints(ends[rows].ravel().tolist())
        for row, matches in zip(rows.tolist(), inliers, strict=True):
            one, two = ends[row]
            reasons[row] = _reason(
                keypoints[one][matches[:, 0]],
                keypoints[two][matches[:, 1]],
                verified.sizes[one - 1],
                verified.sizes[two - 1],
            )
    keep = reasons == ""
    return Verdict(keep=keep, reasons=reasons[~keep])


def _reason(
    one: Float32[np.ndarray, "m 2"],
    two: Float32[np.ndarray, "m 2"],
    size_one: Int[np.ndarray, " 2"],
    size_two: Int[np.ndarray, " 2"],
) -> str:
    unmoved = _unmoved(one, two, size_one, size_two)
    if unmoved.mean() < _UNMOVED_SHARE:
        return ""
    photos = ((one[unmoved], size_one), (two[unmoved], size_two))
    if all(_in_border(points, size).mean() >= _BORDER_SHARE for points, size in photos):
        return "unmoved in the border"
    if all(_area_share(points, size) <= _PATCH_AREA for points, size in photos):
        return "unmoved in a small patch"
    return ""


def _unmoved(
    one: Float32[np.ndarray, "m 2"],
    two: Float32[np.ndarray, "m 2"],
    size_one: Int[np.ndarray, " 2"],
    size_two: Int[np.ndarray, " 2"],
) -> Bool[np.ndarray, " m"]:
    """Which matches lie at the same place, seen from the corner from which most do."""
    tolerance = max(_MIN_TOLERANCE_PX, _TOLERANCE * float(max(size_one.max(), size_two.max())))
    shift = two - one
    corners = np.array([(0, 0), (0, 1), (1, 0), (1, 1)]) * (size_two - size_one)
    still = np.linalg.norm(shift[None] - corners[:, None], axis=2) <= tolerance
    best: Bool[np.ndarray, " m"] = still[still.sum(axis=1).argmax()]
    return best


def _in_border(points: Float32[np.ndarray, "m 2"], size: Int[np.ndarray, " 2"]) -> Bool[np.ndarray, " m"]:
    band = _BORDER * float(np.hypot(*size))
    return np.asarray(((points < band) | (points > size - band)).any(axis=1))


def _area_share(points: Float32[np.ndarray, "m 2"], size: Int[np.ndarray, " 2"]) -> float:
    """Share of the photo that the points' box fills, a twentieth of them left out on each side."""
    low: Float[np.ndarray, " 2"]
    low, high = np.quantile(points, [0.05, 0.95], axis=0)
    return float(np.prod((high - low) / size))
