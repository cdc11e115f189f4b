import math

import numpy as np
import pytest
from PIL.TiffImagePlugin import IFDRational

from groundwork.exif import read_position
from sfm.gps import near_pairs


def test_a_position_in_degrees_minutes_and_seconds() -> None:
    gps = {1: "S", 2: (IFDRational(33), IFDRational(51), IFDRational(54, 10)), 3: "E", 4: (151.0, 12.0, 36.0)}
    latitude, longitude = read_position(gps)
    assert latitude == pytest.approx(-(33 + 51 / 60 + 5.4 / 3600))
    assert longitude == pytest.approx(151.21)
    assert read_position(gps | {1: "n\0", 3: "W"}) == (-latitude, -longitude)


@pytest.mark.parametrize(
    "damage",
    [
        {1: None},
        {2: None},
        {3: "X"},
        {4: (151.0, 12.0)},
        {4: (IFDRational(1, 0), 0.0, 0.0)},
        {4: "abc"},
        {2: (91.0, 0.0, 0.0)},
        {2: (0.0, 0.0, 0.0), 4: (0.0, 0.0, 0.0)},
    ],
)
def test_a_position_that_makes_no_sense_is_unknown(damage: dict[int, object]) -> None:
    gps: dict[int, object] = {1: "S", 2: (33.0, 51.0, 5.4), 3: "E", 4: (151.0, 12.0, 36.0)}
    position = read_position(gps | damage)
    assert all(math.isnan(angle) for angle in position)


def _metres(one: np.ndarray, two: np.ndarray) -> float:
    """The haversine formula."""
    (lat1, lon1), (lat2, lon2) = np.radians(one), np.radians(two)
    half = np.sin((lat2 - lat1) / 2) ** 2 + np.cos(lat1) * np.cos(lat2) * np.sin((lon2 - lon1) / 2) ** 2
    return float(2 * 6_371_008.8 * np.arcsin(np.sqrt(half)))


@pytest.mark.parametrize("block", [4, 100])
def test_near_pairs_agree_with_the_definition(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfm.gps._BLOCK", block)
    rng = np.random.default_rng(2)
    # About 400 m around a point where a degree of longitude is half as long, and across the date line.
    latitude = 60 + rng.uniform(-0.002, 0.002, 30)
    longitude = 180 + rng.uniform(-0.004, 0.004, 30)
    longitude[longitude > 180] -= 360
    latitude[4] = longitude[4] = np.nan
    usable = np.ones(30, dtype=np.bool_)
    usable[7] = False
    places = np.column_stack([latitude, longitude])
    rows = [row for row in range(30) if row not in (4, 7)]
    expected = set()
    for row in rows:
        others = sorted((_metres(places[row], places[other]), other) for other in rows if other != row)
        expected |= {(min(row, far), max(row, far)) for metres, far in others[:3] if metres <= 90}
    pairs = near_pairs(latitude, longitude, usable, neighbours=3, max_distance_m=90)
    assert pairs.tolist() == sorted(map(list, expected))
    assert 10 < len(pairs) < 60


def test_photos_of_one_spot_are_near_each_other() -> None:
    latitude, longitude = np.full(6, 48.5), np.full(6, 9.25)
    pairs = near_pairs(latitude, longitude, np.ones(6, dtype=np.bool_), neighbours=2, max_distance_m=1)
    assert (np.bincount(pairs.ravel(), minlength=6) >= 2).all()
    assert (pairs[:, 0] < pairs[:, 1]).all()


def test_too_few_positions_make_no_pair() -> None:
    latitude, longitude = np.array([48.0, np.nan, 48.0]), np.array([9.0, 9.0, 9.0])
    usable = np.array([True, True, False])
    assert near_pairs(latitude, longitude, usable, neighbours=2, max_distance_m=1e9).shape == (0, 2)
