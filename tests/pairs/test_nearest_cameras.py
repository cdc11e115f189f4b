from dataclasses import replace

import numpy as np
import pytest

from pairs.nearest_cameras import near_camera_pairs, nearest_cameras
from sfm.geometry import centres_in_world


@pytest.mark.parametrize("count", [1, 3, 13, 100])
def test_neighbours_are_those_of_a_full_sort(ring_model, count):
    model = ring_model(2)
    centres = centres_in_world(model.rotations, model.translations)
    distances = np.linalg.norm(centres[:, None] - centres, axis=2)
    expected = [(i, j) for i, row in enumerate(distances) for j in np.argsort(row)[1 : count + 1]]
    assert list(zip(*nearest_cameras(model, count), strict=True)) == expected


def test_neighbours_are_the_same_in_any_frame_and_unit(ring_model, moved):
    model = ring_model(3)
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    other = moved(model, 7.3, turn, np.array([5.0, -2, 11]))
    np.testing.assert_array_equal(nearest_cameras(other, 4), nearest_cameras(model, 4))


def test_cameras_at_one_point_never_neighbour_themselves(ring_model):
    model = ring_model(4)
    centre = np.array([3.0, -4.0, 1.0])
    model = replace(model, translations=-model.rotations @ centre)
    image, neighbour = nearest_cameras(model, 2)
    assert (image != neighbour).all()
    assert np.bincount(image).tolist() == [2] * 14


def test_a_model_of_one_image_has_none(ring_model):
    assert len(near_camera_pairs(ring_model(1, names=("one.jpg",)), 5)) == 0


def test_pairs_say_what_poses_alone_can_tell(ring_model):
    found = near_camera_pairs(ring_model(2), 3)
    assert len(found) == 14 * 3
    assert (np.lexsort((found.positive, found.query)) == np.arange(len(found))).all()
    assert not found.shared_points.any()
    assert np.isinf(found.baseline).all()
    assert (found.angle_deg > 0).all()
    assert found.frustum_overlap.max() > 0.5
