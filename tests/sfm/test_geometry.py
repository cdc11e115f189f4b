import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfm.geometry import (
    Similarity,
    align_similarity,
    angles_between_deg,
    centres_in_world,
    depths,
    relative_poses,
    rotation_angles_deg,
    scales_at_points,
    viewing_directions,
)


def rotation(axis, angle_deg: float) -> np.ndarray:
    """Rodrigues."""
    x, y, z = np.asarray(axis, dtype=float) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(angle_deg)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def random_poses(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    rotations = np.stack([rotation(rng.normal(size=3), rng.uniform(0, 180)) for _ in range(n)])
    return rotations, rng.normal(size=(n, 3))


# A camera at (3, 0, 1) that looks along the world's +x with the world's -z as its +y (down).
ROTATION = np.array([[[0.0, -1, 0], [0, 0, -1], [1, 0, 0]]])
TRANSLATION = np.array([[0.0, 1, -3]])


def test_a_camera_by_hand():
    np.testing.assert_allclose(centres_in_world(ROTATION, TRANSLATION), [[3, 0, 1]])
    np.testing.assert_allclose(viewing_directions(ROTATION), [[1, 0, 0]])
    np.testing.assert_allclose(depths(ROTATION, TRANSLATION, np.array([[7.5, 2, -4]])), [4.5])
    np.testing.assert_allclose(depths(ROTATION, TRANSLATION, np.array([[1.0, 2, -4]])), [-2])


def test_scale_is_focal_by_depth_and_unknown_behind_the_camera():
    found = scales_at_points(np.array([900.0, 900.0, 900.0]), np.array([4.5, -4.5, 0.0]))
    np.testing.assert_array_equal(found, [200, np.nan, np.nan])


def test_angles_known_and_at_the_ends():
    a = np.array([[1.0, 0, 0], [2, 0, 0], [0, 0, 5], [1, 1, 0], [1, 0, 0]])
    b = np.array([[0.0, 3, 0], [0.5, 0, 0], [0, 0, -1], [7, 0, 0], [1, 1e-9, 0]])
    expected = [90, 0, 180, 45, np.degrees(1e-9)]
    np.testing.assert_allclose(angles_between_deg(a, b), expected, rtol=1e-12)


@pytest.mark.parametrize("angle_deg", [0, 1e-7, 25.0, 90, 179.999])
def test_rotation_angle(angle_deg):
    found = rotation_angles_deg(rotation([1, -2, 0.5], angle_deg)[None])
    np.testing.assert_allclose(found, [angle_deg], rtol=1e-7, atol=1e-12)


def test_relative_pose_takes_points_from_one_camera_to_the_other():
    rng = np.random.default_rng(0)
    (rot_a, tr_a), (rot_b, tr_b), points = random_poses(rng, 5), random_poses(rng, 5), rng.normal(size=(5, 3))
    in_a = np.einsum("nij,nj->ni", rot_a, points) + tr_a
    in_b = np.einsum("nij,nj->ni", rot_b, points) + tr_b
    b_from_a, translation = relative_poses(rot_a, tr_a, rot_b, tr_b)
    np.testing.assert_allclose(np.einsum("nij,nj->ni", b_from_a, in_a) + translation, in_b, atol=1e-12)


def test_similarity_moves_centres_axes_and_points_together():
    rng = np.random.default_rng(1)
    rotations, translations = random_poses(rng, 6)
    points = rng.normal(size=(6, 3))
    similarity = Similarity(
        scale=2.5, rotation=rotation([1, 2, 3], 70), translation=np.array([4.0, -5.0, 6.0])
    )
    moved_rotations, moved_translations = similarity.apply_to_poses(rotations, translations)
    np.testing.assert_allclose(
        centres_in_world(moved_rotations, moved_translations),
        similarity.apply(centres_in_world(rotations, translations)),
        atol=1e-12,
    )
    np.testing.assert_allclose(
        depths(moved_rotations, moved_translations, similarity.apply(points)),
        2.5 * depths(rotations, translations, points),
        atol=1e-12,
    )


@given(
    seed=st.integers(0, 10_000),
    scale=st.floats(0.01, 100),
    angle_deg=st.floats(0, 180),
    shift=st.floats(-100, 100),
    flat=st.booleans(),
)
def test_alignment_recovers_a_similarity(seed, scale, angle_deg, shift, flat):
    rng = np.random.default_rng(seed)
    source = rng.normal(size=(8, 3)) * [1, 1, 0 if flat else 1]
    true = Similarity(scale=scale, rotation=rotation([1, 2, -1], angle_deg), translation=np.full(3, shift))
    target = true.apply(source)
    found = align_similarity(source, target)
    np.testing.assert_allclose(found.apply(source), target, atol=1e-9 * (scale + abs(shift) + 1))
    np.testing.assert_allclose(found.scale, scale, rtol=1e-9)
    np.testing.assert_allclose(np.linalg.det(found.rotation), 1.0)


def test_alignment_of_a_mirrored_target_stays_a_rotation():
    source = np.random.default_rng(2).normal(size=(10, 3))
    found = align_similarity(source, source * [1, 1, -1])
    np.testing.assert_allclose(np.linalg.det(found.rotation), 1.0)


def test_alignment_is_the_best_of_its_neighbours():
    rng = np.random.default_rng(3)
    source, target = rng.normal(size=(10, 3)), rng.normal(size=(10, 3))
    found = align_similarity(source, target)

    def error(similarity: Similarity) -> float:
        return float(((similarity.apply(source) - target) ** 2).sum())

    for step in (rotation([1, 0, 0], 1), rotation([0, 1, 0], -1), rotation([0, 0, 1], 1)):
        turned = Similarity(scale=found.scale, rotation=step @ found.rotation, translation=found.translation)
        assert error(found) < error(turned)
    for factor in (0.99, 1.01):
        scaled = Similarity(
            scale=factor * found.scale, rotation=found.rotation, translation=found.translation
        )
        assert error(found) < error(scaled)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((2, 3)), "expected at least 3 points, as many in source as in target, got 2 and 2"),
        (np.outer(np.arange(5.0), [1, 2, 3]), "expected points that span a plane, got points on a line"),
        (np.ones((5, 3)), "expected points that span a plane"),
    ],
)
def test_undetermined_alignments_are_refused(source, message):
    with pytest.raises(ValueError, match="^similarity: " + message):
        align_similarity(source, source)
