"""Where photos were taken, as their EXIF says, and which of them were taken near each other."""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree

_LATITUDE_REF, _LATITUDE, _LONGITUDE_REF, _LONGITUDE = 1, 2, 3, 4
_EARTH_RADIUS_M = 6_371_008.8
# Rows whose neighbours are looked up at a time.
_BLOCK = 65_536


def read_position(gps: Mapping[int, object]) -> tuple[float, float]:
    """Latitude and longitude in degrees, north and east positive, from EXIF's GPS block; NaN where unknown.

    (0, 0) counts as unknown: it is what a receiver without a fix writes.
    """
    latitude = _degrees(gps.get(_LATITUDE), gps.get(_LATITUDE_REF), "N", "S", limit=90.0)
    longitude = _degrees(gps.get(_LONGITUDE), gps.get(_LONGITUDE_REF), "E", "W", limit=180.0)
    if math.isnan(latitude) or math.isnan(longitude) or latitude == longitude == 0.0:
        return math.nan, math.nan
    return latitude, longitude


def near_pairs(
    latitude: Float[np.ndarray, " n"],
    longitude: Float[np.ndarray, " n"],
    usable: Bool[np.ndarray, " n"],
    *,
    neighbours: int,
    max_distance_m: float,
) -> Int[np.ndarray, "p 2"]:
    """Unique pairs of usable rows with a position, one among the other's nearest and within the distance.

    Distances are on a sphere. The smaller row comes first. Of equally near ones the search decides.
    """
    rows = np.flatnonzero(usable & np.isfinite(latitude) & np.isfinite(longitude))
    wanted = min(neighbours, len(rows) - 1)
    if wanted < 1:
        return np.empty((0, 2), dtype=np.int64)
    points = _on_unit_sphere(latitude[rows], longitude[rows])
    # A chord is as long as twice the sine of half its angle; an arc of half a turn reaches everything.
    longest = 2.0 * math.sin(min(max_distance_m / _EARTH_RADIUS_M, math.pi) / 2.0)
    tree = KDTree(points)
    found = []
    for start in range(0, len(rows), _BLOCK):
        queries = np.arange(start, min(start + _BLOCK, len(rows)))
        # One more than wanted: each is the nearest to itself, or as near as others at the same spot.
        distance, found_rows = tree.query(points[queries], k=wanted + 1, distance_upper_bound=longest)
        nearest = np.asarray(found_rows)
        kept = np.isfinite(distance) & (nearest != queries[:, None])
        kept &= np.cumsum(kept, axis=1) <= wanted
        query, column = np.nonzero(kept)
        found.append(np.sort(rows[np.column_stack([queries[query], nearest[query, column]])], axis=1))
    return np.unique(np.concatenate(found), axis=0)


def _on_unit_sphere(
    latitude: Float[np.ndarray, " n"], longitude: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "n 3"]:
    polar, around = np.radians(latitude), np.radians(longitude)
    flat = np.cos(polar)
    return np.column_stack([flat * np.cos(around), flat * np.sin(around), np.sin(polar)])


def _degrees(angle: object, reference: object, plus: str, minus: str, *, limit: float) -> float:
    """An angle given as degrees, minutes, seconds and its half of the globe; NaN where it makes no sense."""
    sign = {plus: 1.0, minus: -1.0}.get(str(reference).strip(" \0").upper(), math.nan)
    try:
        degrees, minutes, seconds = (float(part) for part in angle)  # type: ignore[attr-defined]
    except (TypeError, ValueError, ZeroDivisionError):
        return math.nan
    value = sign * (degrees + minutes / 60.0 + seconds / 3600.0)
    return value if abs(value) <= limit else math.nan
