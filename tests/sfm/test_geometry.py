import numpy as np

from sfm.geometry import angles_between_deg, centres_in_world, depths, scales_at_points, viewing_directions

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
