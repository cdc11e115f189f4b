"""Photos that are a part of another one: placed there by geometry, confirmed on the pixels.

Local features say where in the larger photo the smaller one would lie; only what is the same picture there
counts, so that another photo of the same thing is no crop of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from cnnimretrieval.descriptors.images import Box, ImageRequest, full_size, open_request
from cnnimretrieval.local.detected import PhotoFeatures, detection
from cnnimretrieval.local.pairing import PairConfig, pair
from cnnimretrieval.local.verification import opencv
from groundwork.photos import THUMBNAIL_PX
from sfm.nearcopies import near_in_detail

_PAIRING = PairConfig(geometry="similarity", max_ratio=0.8, max_error_px=4.0)
_MIN_INLIERS = 12
# A crop that somebody turned is another picture.
_MAX_TURN = 0.02
# Of the sides of the larger photo: what a placed corner may lie outside.
_TOLERANCE = 0.02
# Of its area: what is as large as this is a near-copy with a narrower frame.
_MOST_AREA = 0.95
# Photos are compared at this size, long before they are squeezed to a thumbnail.
_COMPARED_PX = 256


@dataclass(frozen=True, kw_only=True)
class Crop:
    """The photo `name` shows the `box` of the photo `of`, in px of it, upright; `inliers` placed it there."""

    name: str
    of: str
    box: Box
    inliers: int


def find_crops(
    names: Sequence[str],
    pairs: Int[np.ndarray, "p 2"],
    photos: Path,
    *,
    cache: Path | None = None,
    workers: int = 1,
) -> Iterator[Crop]:
    """Of pairs of `names`, files below `photos`, those of which one is a part of the other, in their order.

    A crop may be resized, compressed and of other tones; one that is turned or mirrored, or in which SIFT
    finds too little, is missed. What SIFT finds is kept in `cache`. ImportError without OpenCV.
    """
    opencv()
    features = PhotoFeatures(
        lambda row: ImageRequest(path=photos / names[row]),
        detection("sift", _PAIRING.max_features),
        cache=cache,
        workers=workers,
    )
    features.prepare(np.unique(pairs).tolist())
    for one, two in pairs.tolist():
        first, second = features([one, two])
        paired = pair(first, second, _PAIRING)
        if paired.num_inliers < _MIN_INLIERS:
            continue
        matrix = paired.verified.matrix
        for small, large, placed in ((one, two, matrix), (two, one, np.linalg.inv(matrix))):
            box = _box(placed, photos / names[small], photos / names[large])
            if box is not None and _same(photos / names[small], photos / names[large], box):
                yield Crop(name=names[small], of=names[large], box=box, inliers=paired.num_inliers)
                break


def _box(placed: Float[np.ndarray, "3 3"], small: Path, large: Path) -> Box | None:
    """Where the smaller photo lies in the larger one; None where it does not lie in it, upright."""
    width, height = full_size(ImageRequest(path=small))
    whole_width, whole_height = full_size(ImageRequest(path=large))
    along = placed[:2, 0]
    if along[0] <= 0 or abs(along[1]) > _MAX_TURN * along[0]:
        return None
    (x1, y1), (x2, y2) = (placed[:2, :2] @ corner + placed[:2, 2] for corner in ((0.0, 0.0), (width, height)))
    slack_x, slack_y = _TOLERANCE * whole_width, _TOLERANCE * whole_height
    inside = (
        x1 >= -slack_x and y1 >= -slack_y and x2 <= whole_width + slack_x and y2 <= whole_height + slack_y
    )
    if not inside or (x2 - x1) * (y2 - y1) > _MOST_AREA * whole_width * whole_height:
        return None
    sides = (max(x1, 0.0), max(y1, 0.0), min(x2, whole_width), min(y2, whole_height))
    return float(round(sides[0])), float(round(sides[1])), float(round(sides[2])), float(round(sides[3]))


def _same(small: Path, large: Path, box: Box) -> bool:
    asked = (ImageRequest(path=small), ImageRequest(path=large, box=box, as_photo=True))
    square = (THUMBNAIL_PX, THUMBNAIL_PX)
    one, two = (
        np.asarray(open_request(request, _COMPARED_PX).convert("L").resize(square), np.float32)[None]
        for request in asked
    )
    return bool(near_in_detail(one, two)[0])
