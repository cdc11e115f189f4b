"""Putative matches: against a plain loop, by hand, and of what is no proper input."""

import numpy as np
import pytest

from cnnimretrieval.local.matching import MatchConfig, match


def _unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _angles(*degrees: float) -> np.ndarray:
    """Unit vectors in the plane: what is near to what can be checked with a protractor."""
    turned = np.radians(degrees)
    return np.stack([np.cos(turned), np.sin(turned)], axis=1).astype(np.float32)


def _plain(first: np.ndarray, second: np.ndarray, config: MatchConfig) -> list[tuple[int, int]]:
    """The definition, a pair of descriptors at a time."""
    distances = [[float(np.linalg.norm(a - b)) for b in second.astype(np.float64)] for a in first]
    found = []
    for i, row in enumerate(distances):
        order = sorted(range(len(row)), key=lambda j: row[j])
        j = order[0]
        if row[j] > config.max_distance:
            continue
        if len(order) > 1 and row[j] > config.max_ratio * row[order[1]]:
            continue
        if config.mutual and min(range(len(distances)), key=lambda k: distances[k][j]) != i:
            continue
        found.append((i, j))
    return found


@pytest.mark.parametrize(
    "config",
    [
        MatchConfig(),
        MatchConfig(mutual=False),
        MatchConfig(max_ratio=1.0, max_distance=2.0),
        MatchConfig(mutual=False, max_ratio=0.8, max_distance=0.9),
    ],
)
def test_equals_the_plain_definition(config):
    generator = np.random.default_rng(11)
    centres = generator.normal(size=(40, 16))
    first = _unit(centres[generator.integers(40, size=60)] + 0.4 * generator.normal(size=(60, 16)))
    second = _unit(centres + 0.4 * generator.normal(size=(40, 16)))
    found = match(first, second, config)
    expected = _plain(first, second, config)
    assert [tuple(row) for row in found.rows.tolist()] == expected
    assert len(expected) >= 8
    apart = np.linalg.norm(first[found.rows[:, 0]] - second[found.rows[:, 1]], axis=1)
    np.testing.assert_allclose(found.distances, apart, atol=1e-5)


def test_ratio_and_distance_by_hand():
    first, second = _angles(0, 90), _angles(10, 40, 85)
    # Chords: 10 degrees is 0.174, 40 is 0.684; 5 is 0.087, 50 is 0.845.
    assert match(first, second, MatchConfig()).rows.tolist() == [[0, 0], [1, 2]]
    assert match(first, second, MatchConfig(max_ratio=0.2)).rows.tolist() == [[1, 2]]
    assert match(first, second, MatchConfig(max_distance=0.1)).rows.tolist() == [[1, 2]]


def test_only_the_nearest_of_two_gets_a_mutual_match():
    first, second = _angles(0, 8), _angles(10, 120)
    assert match(first, second, MatchConfig()).rows.tolist() == [[1, 0]]
    assert match(first, second, MatchConfig(mutual=False)).rows.tolist() == [[0, 0], [1, 0]]


def test_the_same_photo_matches_itself():
    descriptors = _unit(np.random.default_rng(0).normal(size=(30, 8)))
    found = match(descriptors, descriptors, MatchConfig())
    assert found.rows.tolist() == [[i, i] for i in range(30)]
    np.testing.assert_allclose(found.distances, 0.0, atol=1e-3)


def test_no_features_and_a_lone_one():
    nothing, one = np.empty((0, 8), np.float32), _unit(np.ones((1, 8)))
    for first, second in ((nothing, one), (one, nothing), (nothing, np.empty((0, 0), np.float32))):
        assert len(match(first, second, MatchConfig())) == 0
    assert match(one, one, MatchConfig()).rows.tolist() == [[0, 0]]


def test_refuses_other_descriptors_and_nan():
    first = _unit(np.ones((3, 8)))
    with pytest.raises(ValueError, match="one length") as fault:
        match(first, _unit(np.ones((2, 4))), MatchConfig())
    assert str(fault.value) == (
        "matching: expected descriptors of one length, got 8 and 4; take the features of both photos from "
        "one method"
    )
    broken = first.copy()
    broken[1, 2] = np.nan
    with pytest.raises(ValueError, match="expected finite descriptors, got NaN"):
        match(first, broken, MatchConfig())
