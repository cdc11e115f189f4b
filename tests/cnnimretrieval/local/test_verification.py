"""Geometry of matched points: found among wrong matches, seeded, and nothing where nothing is proved."""

import sys
from pathlib import Path

import numpy as np
import pytest

from cnnimretrieval.local.features import LocalFeatures, no_features
from cnnimretrieval.local.pairing import ON_A_GRID, PairConfig, pair
from cnnimretrieval.local.verification import MINIMAL, VerifyConfig, opencv, verify

MAPS = {
    "similarity": [[0.8, -0.3, 60.0], [0.3, 0.8, -20.0], [0.0, 0.0, 1.0]],
    "affine": [[0.9, -0.2, 40.0], [0.1, 1.2, 15.0], [0.0, 0.0, 1.0]],
    "homography": [[0.9, -0.1, 30.0], [0.2, 1.1, -25.0], [2e-4, -1e-4, 1.0]],
}


def _mapped(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    moved = np.column_stack([points, np.ones(len(points))]) @ np.asarray(matrix).T
    return moved[:, :2] / moved[:, 2:]


def _matched(matrix: np.ndarray, right: int, wrong: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(4)
    one = generator.uniform(0, (800, 600), (right + wrong, 2))
    two = _mapped(one, matrix) + generator.normal(scale=0.4, size=one.shape)
    two[right:] = generator.uniform(0, (800, 600), (wrong, 2))
    order = generator.permutation(len(one))
    return one[order], two[order], order < right


@pytest.mark.parametrize("geometry", MAPS)
def test_finds_the_map_among_wrong_matches(geometry):
    one, two, right = _matched(MAPS[geometry], 80, 80)
    found = verify(one, two, VerifyConfig(geometry=geometry, max_error_px=3.0))
    assert found.inliers[right].all()
    assert found.inliers[~right].sum() <= 3
    corners = np.array([[0.0, 0.0], [800, 0], [800, 600], [0, 600]])
    np.testing.assert_allclose(_mapped(corners, found.matrix), _mapped(corners, MAPS[geometry]), atol=2.0)
    # Inliers are what the definition says, by the matrix that is given out.
    apart = np.linalg.norm(_mapped(one, found.matrix) - two, axis=1)
    assert (apart[found.inliers] <= 3.3).all()


def test_finds_the_epipolar_geometry_of_a_scene_with_depth():
    generator = np.random.default_rng(7)
    points = np.column_stack([generator.uniform(-2, 2, (120, 2)), generator.uniform(4, 9, 120)])
    one = 500 * points[:, :2] / points[:, 2:] + 400
    moved = points + np.array([0.8, 0.1, 0.2])
    two = 500 * moved[:, :2] / moved[:, 2:] + 400
    right = np.arange(120) < 80
    two[~right] = generator.uniform(0, 800, (40, 2))
    found = verify(one, two, VerifyConfig(geometry="fundamental", max_error_px=1.0))
    assert found.inliers[right].mean() > 0.97
    assert found.inliers[~right].sum() <= 6
    homogeneous = [np.column_stack([points, np.ones(120)])[right] for points in (one, two)]
    lines = homogeneous[0] @ found.matrix.T
    distances = np.abs((lines * homogeneous[1]).sum(axis=1)) / np.linalg.norm(lines[:, :2], axis=1)
    assert np.median(distances) < 0.1


@pytest.mark.parametrize("geometry", [*MAPS, "fundamental"])
def test_same_seed_same_result(geometry):
    one, two, _ = _matched(MAPS["affine"], 25, 100)
    first, again = (verify(one, two, VerifyConfig(geometry=geometry, seed=5)) for _ in range(2))
    assert np.array_equal(first.inliers, again.inliers)
    assert np.array_equal(first.matrix, again.matrix)


@pytest.mark.parametrize("geometry", MINIMAL)
def test_as_many_matches_as_determine_it_prove_nothing(geometry):
    generator = np.random.default_rng(1)
    for count in range(MINIMAL[geometry] + 1):
        one, two = generator.uniform(0, 500, (2, count, 2))
        found = verify(one, two, VerifyConfig(geometry=geometry))
        assert found.num_inliers == 0
        assert not found.matrix.any()


@pytest.mark.parametrize(
    "matrix",
    [
        [[-1.0, 0.0, 800.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
        [[0.01, 0.0, 300.0], [0.0, 0.01, 200.0], [0.0, 0.0, 1.0]],
    ],
    ids=["mirrored", "collapsed"],
)
@pytest.mark.parametrize("geometry", ["affine", "homography"])
def test_no_photo_is_mirrored_or_collapsed(matrix, geometry):
    one = np.random.default_rng(3).uniform(0, (800, 600), (60, 2))
    assert verify(one, _mapped(one, matrix), VerifyConfig(geometry=geometry)).num_inliers == 0


def test_points_in_one_place_prove_nothing():
    same = np.full((40, 2), 7.0)
    for geometry in MINIMAL:
        assert verify(same, same, VerifyConfig(geometry=geometry)).num_inliers == 0


def test_refuses_positions_that_are_none():
    points = np.ones((9, 2))
    points[3, 1] = np.inf
    with pytest.raises(ValueError, match="finite") as fault:
        verify(points, points, VerifyConfig())
    assert str(fault.value) == (
        "verification: expected finite positions, got NaN or infinity; extract the local features again"
    )


def _features(points: np.ndarray, descriptors: np.ndarray) -> LocalFeatures:
    count = len(points)
    return LocalFeatures(
        keypoints=points.astype(np.float32),
        scales=np.ones(count, np.float32),
        scores=np.arange(count, 0, -1).astype(np.float32),
        descriptors=descriptors.astype(np.float32),
    )


def _two_photos(enlarged: float) -> tuple[LocalFeatures, LocalFeatures]:
    generator = np.random.default_rng(2)
    descriptors = generator.normal(size=(90, 32))
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    points = generator.uniform(0, (1024, 700), (90, 2))
    moved = points + generator.normal(scale=3.0, size=points.shape)
    order = generator.permutation(90)
    return _features(points, descriptors), _features(enlarged * moved[order], descriptors[order])


def test_tolerance_grows_with_the_photo():
    counts = []
    for enlarged in (1.0, 4.0):
        paired = pair(*_two_photos(enlarged), PairConfig(max_error_px=9.0))
        assert len(paired.matches) == 90
        counts.append(paired.num_inliers)
    assert counts[0] == counts[1] > 80
    assert pair(*_two_photos(4.0), PairConfig(max_error_px=9.0 / 4.0)).num_inliers < 50


def test_uses_the_best_features_only():
    first, second = _two_photos(1.0)
    paired = pair(first, second, PairConfig(max_features=40))
    assert paired.matches.rows.max() < 40


def test_identical_photos_and_featureless_ones():
    first, _ = _two_photos(1.0)
    assert pair(first, first, PairConfig()).num_inliers == 90
    assert pair(first, no_features(0), PairConfig()).num_inliers == 0
    assert pair(no_features(32), first, PairConfig()).num_inliers == 0


def test_features_on_a_grid_are_verified_by_what_suits_them():
    generator = np.random.default_rng(6)
    points = generator.uniform(0, (1024, 700), (120, 2))
    snapped = [np.floor(seen / 16.0) * 16.0 + 8.0 for seen in (points, points @ [[0.9, 0.1], [-0.1, 0.9]])]
    descriptors = np.eye(120)
    one, two = (_features(each, descriptors) for each in snapped)
    exact, suiting = (pair(one, two, PairConfig(**values)).num_inliers for values in ({}, ON_A_GRID))
    assert exact < 90
    assert suiting > 110


def test_an_opencv_that_does_not_load_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "libGL.so.1: cannot open shared object file"
    (tmp_path / "cv2.py").write_text(f"raise ImportError({reason!r})")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    with pytest.raises(ImportError, match=f"expected OpenCV to load, got '{reason}'.*--force-reinstall"):
        opencv()
