from pathlib import Path

import numpy as np
import pycolmap
import pytest

from sfm.colmap import calls as colmap
from sfm.colmap.calls import read_reconstruction
from sfm.featurestore import ImageFeatures


@pytest.fixture
def synthetic() -> pycolmap.Reconstruction:
    """Three cameras, two images of each, 60 points that all of them see."""
    pycolmap.set_random_seed(0)
    options = pycolmap.SyntheticDatasetOptions(
        num_rigs=3, num_cameras_per_rig=1, num_frames_per_rig=2, num_points3D=60
    )
    return pycolmap.synthesize_dataset(options)


def test_a_reconstruction_is_read_as_arrays(synthetic: pycolmap.Reconstruction, tmp_path: Path) -> None:
    synthetic.write(tmp_path)
    model = read_reconstruction(tmp_path)
    assert model.place == -1
    assert model.num_images == 6
    assert model.names == tuple(sorted(image.name for image in synthetic.images.values()))
    assert model.num_points == 60
    assert model.num_observations == synthetic.compute_num_observations()
    points = [synthetic.points3D[point_id].xyz for point_id in sorted(synthetic.points3D)]
    np.testing.assert_allclose(model.points, points)
    assert model.sizes.tolist() == [[1024, 768]] * 6
    for row, name in enumerate(model.names):
        image = synthetic.find_image_with_name(name)
        seen = {tuple(image.points2D[index].xy) for index in image.get_observation_point2D_idxs()}
        assert set(map(tuple, model.track_xy[model.track_image == row])) == seen


@pytest.mark.parametrize("params", [(-700.0, 512, 384, 0), (1e6, 512, 384, 0), (1280.0, 512, 384, -3.0)])
def test_images_of_a_runaway_camera_are_taken_out(
    synthetic: pycolmap.Reconstruction, tmp_path: Path, params: tuple[float, ...]
) -> None:
    camera = next(iter(synthetic.cameras.values()))
    of_camera = {image.name for image in synthetic.images.values() if image.camera_id == camera.camera_id}
    camera.params = np.array(params)
    assert colmap._drop_degenerate_cameras(synthetic) == len(of_camera) == 2
    synthetic.write(tmp_path)
    model = read_reconstruction(tmp_path)
    assert model.num_images == 4
    assert not of_camera & set(model.names)
    assert (np.bincount(model.track_point) >= 2).all()
    assert colmap._drop_degenerate_cameras(synthetic) == 0


def _image(image_id: int, points: np.ndarray, focal_px: float) -> ImageFeatures:
    return ImageFeatures(
        image_id=image_id,
        name=str(image_id),
        width=1000,
        height=800,
        focal_px=focal_px,
        keypoints=np.column_stack([points, np.ones((len(points), 2))]).astype(np.float32),
    )


@pytest.mark.parametrize(("focal_px", "geometry_kind"), [(900.0, 2), (np.nan, 3)])
def test_verify_keeps_what_one_motion_explains(focal_px: float, geometry_kind: int) -> None:
    rng = np.random.default_rng(0)
    points = np.column_stack([rng.uniform(-2, 2, (120, 2)), rng.uniform(4, 9, 120)])
    first = points[:, :2] / points[:, 2:] * 900 + (500, 400)
    moved = points + np.array([0.8, 0.1, 0.2])
    second = moved[:, :2] / moved[:, 2:] * 900 + (500, 400)
    wrong = rng.choice(120, 30, replace=False)
    second[wrong] += rng.uniform(60, 200, (30, 2))
    matches = np.column_stack([np.arange(120), np.arange(120)]).astype(np.uint32)
    found = colmap.verify(
        _image(1, first, focal_px),
        _image(2, second, focal_px),
        matches,
        max_error_px=2.0,
        max_trials=2000,
        min_inliers=15,
        seed=0,
    )
    assert found.geometry_kind == geometry_kind
    assert set(range(120)) - set(wrong) <= set(found.inliers[:, 0])
    assert len(found.inliers) <= 94


def test_verify_finds_the_true_third_of_the_matches_without_focal_length() -> None:
    rng = np.random.default_rng(0)
    points = np.column_stack([rng.uniform(-2, 2, (120, 2)), rng.uniform(4, 9, 120)])
    moved = points + np.array([0.8, 0.1, 0.2])
    first, second = (seen[:, :2] / seen[:, 2:] * 600 + (500, 400) for seen in (points, moved))
    second += rng.normal(0, 0.5, second.shape)
    second[:80] = rng.uniform(0, 800, (80, 2))
    images = (_image(1, first, np.nan), _image(2, second, np.nan))
    matches = np.column_stack([np.arange(120), np.arange(120)]).astype(np.uint32)
    found = colmap.verify(*images, matches, max_error_px=2.0, max_trials=2000, min_inliers=15, seed=0)
    assert found.geometry_kind == 3
    # The solver for two photos of one camera finds 28 of the 40.
    assert (found.inliers[:, 0] >= 80).sum() >= 38


@pytest.mark.parametrize("count", [0, 5, 40])
def test_verify_finds_nothing_in_chance(count: int) -> None:
    rng = np.random.default_rng(1)
    matches = np.column_stack([np.arange(count)] * 2).astype(np.uint32)
    images = [_image(number, rng.uniform(0, 800, (40, 2)), np.nan) for number in (1, 2)]
    found = colmap.verify(*images, matches, max_error_px=2.0, max_trials=500, min_inliers=15, seed=0)
    assert found.geometry_kind == 1
    assert found.inliers.shape == (0, 2)
