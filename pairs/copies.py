"""Near-copies by geometry: images of a model that see its points in the same places, margins aside.

A crop, a frame around it or a logo keep a copy from being told by its pixels; its points are where they were.
So are those of a second photo from a tripod: of such pairs nothing is learned either.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Complex, Float, Int

from pairs.image_pairs import Candidates
from sfm.covisibility import covisible_pairs, visibility
from sfm.geometry import angles_between_deg, viewing_directions
from sfm.model import Model
from sfm.paircodes import encode, num_rows

# Fewer shared points, also of those that the one which sees fewer sees, say too little.
_MIN_POINTS = 20
_MIN_SHARE_OF_POINTS = 0.6
# A crop that lies aside in its photo seems to be taken in another direction.
_MAX_ANGLE_DEG = 10.0
# So many of the shared points lie where they should, to this share of the smaller photo's longer
# side. Measured: 0.65 and more in crops, frames, logos and other tones, 0.5 and less in photos of a series.
_MIN_SHARE_IN_PLACE = 0.6
_TOLERANCE = 0.001
_MIN_TOLERANCE_PX = 0.75
# They fill so much of either photo, a twentieth left out on each side: what fills a patch of two photos may
# stand in other surroundings.
_MIN_FILLED_AREA = 0.1
# Laid over each other the two have so much in common of what they cover together. A step along a flat wall
# moves all its points alike, too: such photos had 0.7 and less in common.
_MIN_COMMON_AREA = 0.75
_FITS = 4

_Points = Complex[np.ndarray, " k"]


def copied_pairs(model: Model) -> Int[np.ndarray, "p 2"]:
    """Unordered pairs of rows of the model's images that are near-copies of each other, smaller row first."""
    visible = visibility(model)
    pairs, tracks = covisible_pairs(visible), visible.sum(axis=1)
    fewer = np.minimum(tracks[pairs.first], tracks[pairs.second])
    many = pairs.shared_points >= np.maximum(_MIN_POINTS, _MIN_SHARE_OF_POINTS * fewer)
    axes = viewing_directions(model.rotations)
    aligned = angles_between_deg(axes[pairs.first], axes[pairs.second]) <= _MAX_ANGLE_DEG
    rows = np.stack([pairs.first, pairs.second], axis=1)[many & aligned]
    seen = _points_of_images(model, np.unique(rows))
    copied = np.array([_is_copied(model, seen, one, two) for one, two in rows.tolist()], dtype=np.bool_)
    found: Int[np.ndarray, "p 2"] = rows[copied]
    return found


def without_copies(pairs: Candidates, copied: Int[np.ndarray, "c 2"]) -> Candidates:
    """The pairs that are in neither order among the copied ones."""
    size = num_rows(pairs.query, pairs.positive, copied)
    one, two = copied.T
    codes = np.concatenate([encode(one, two, size), encode(two, one, size)])
    return pairs.take(~np.isin(encode(pairs.query, pairs.positive, size), codes))


def _points_of_images(
    model: Model, images: Int[np.ndarray, " i"]
) -> dict[int, tuple[Int[np.ndarray, " k"], _Points]]:
    """The points that each image sees, rising and once each, and where: x + iy."""
    code = model.track_image * model.num_points + model.track_point
    once, first = np.unique(code, return_index=True)
    image, point = np.divmod(once, model.num_points)
    places = model.track_xy[first] @ np.array([1, 1j])
    starts, ends = np.searchsorted(image, images), np.searchsorted(image, images, side="right")
    return {
        row: (point[start:end], places[start:end])
        for row, start, end in zip(images.tolist(), starts.tolist(), ends.tolist(), strict=True)
    }


def _is_copied(
    model: Model, seen: Mapping[int, tuple[Int[np.ndarray, " k"], _Points]], one: int, two: int
) -> bool:
    _, row1, row2 = np.intersect1d(seen[one][0], seen[two][0], assume_unique=True, return_indices=True)
    here, there = seen[one][1][row1], seen[two][1][row2]
    factor, shift = _similarity(here, there)
    apart = np.abs(factor * here + shift - there) / max(1.0, abs(factor))
    longer = min(float(model.sizes[one].max()), float(model.sizes[two].max()))
    in_place = (apart <= max(_MIN_TOLERANCE_PX, _TOLERANCE * longer)).mean()
    filled = min(_filled(here, model.sizes[one]), _filled(there, model.sizes[two]))
    if in_place < _MIN_SHARE_IN_PLACE or filled < _MIN_FILLED_AREA:
        return False
    corners = factor * (model.sizes[one] * np.array([[0, 0], [1, 1]]) @ np.array([1, 1j])) + shift
    return _common_area(corners, model.sizes[two]) >= _MIN_COMMON_AREA


def _similarity(here: _Points, there: _Points) -> tuple[complex, complex]:
    """Factor and shift of the map z -> factor z + shift that most points agree with.

    Least squares, again without the points that fit worst.
    """
    kept = np.ones(len(here), dtype=np.bool_)
    factor, shift = 1 + 0j, 0j
    for _ in range(_FITS):
        centre, target = here[kept].mean(), there[kept].mean()
        spread = float((np.abs(here[kept] - centre) ** 2).sum())
        factor = complex(((here[kept] - centre).conj() * (there[kept] - target)).sum() / max(spread, 1e-9))
        shift = complex(target - factor * centre)
        apart = np.abs(factor * here + shift - there)
        kept = apart <= 3 * np.median(apart) + 1e-9
    return factor, shift


def _filled(points: _Points, size: Int[np.ndarray, " 2"]) -> float:
    """Share of a photo that the box of most points fills."""
    across, down = (np.ptp(np.quantile(axis, [0.05, 0.95])) for axis in (points.real, points.imag))
    return float(across * down / np.prod(size))


def _common_area(corners: _Points, size: Int[np.ndarray, " 2"]) -> float:
    """Of a box by two of its corners and a photo of this size: intersection over union."""
    low: Float[np.ndarray, " 2"] = np.array([corners.real.min(), corners.imag.min()])
    high: Float[np.ndarray, " 2"] = np.array([corners.real.max(), corners.imag.max()])
    common = float(np.prod(np.clip(np.minimum(high, size) - np.maximum(low, 0), 0, None)))
    return common / (float(np.prod(high - low)) + float(np.prod(size)) - common)
