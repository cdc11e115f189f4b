"""Cameras and positions of others' photos, brought to the stored ones: by COLMAP's own cameras."""

import numpy as np
import pycolmap
import pytest

from groundwork.orientation import back_to_stored, upright_size, upright_xy
from sfm.colmap.files import NUM_CAMERA_PARAMS
from sfm.colmap.frames import Photo, Reframe, frames_of

# A sphere's panorama has no focal length, and no turn about the optical axis.
CAMERAS = [model for model in range(len(NUM_CAMERA_PARAMS)) if model != 17]


def camera_of(model: int) -> pycolmap.Camera:
    """A camera of 640 x 480 px of which no two parameters are equal."""
    camera = pycolmap.Camera.create_from_model_id(1, pycolmap.CameraModelId(model), 700.0, 640, 480)
    params = np.array(camera.params)
    centre = list(camera.principal_point_idxs())
    params[list(camera.focal_length_idxs())] = [700.0, 690.0][: len(camera.focal_length_idxs())]
    params[centre] = [310.0, 255.0]
    extra = list(camera.extra_params_idxs())
    params[extra] += 0.004 * np.arange(1, len(extra) + 1)
    camera.params = params
    return camera


@pytest.mark.parametrize("model", CAMERAS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_and_scaled_camera_sees_the_same_points(model: int, orientation: int) -> None:
    given = camera_of(model)
    turn = back_to_stored(orientation)
    frame = Reframe(size=(640, 480), scaled=(320, 240), turn=turn)
    width, height = upright_size(320, 240, turn)
    made = pycolmap.Camera(
        camera_id=1,
        model=given.model,
        width=width,
        height=height,
        params=frame.params(model, given.params.tolist()),
    )
    points = np.random.default_rng(3).uniform([-0.3, -0.2, 1.0], [0.25, 0.3, 1.2], (20, 3))
    turned = points.copy()
    turned[:, :2] = points[:, :2] @ frame.turning.T
    np.testing.assert_allclose(made.img_from_cam(turned), frame.xy(given.img_from_cam(points)), atol=1e-9)
    stored = frame.xy(np.array([[64.0, 80.0]]))
    np.testing.assert_allclose(upright_xy(stored, width, height, orientation), [[32.0, 40.0]])
    assert frame.mirrors == (np.linalg.det(frame.turning) < 0)


def test_keypoints_turn_with_the_photo() -> None:
    frame = Reframe(size=(640, 480), scaled=(320, 240), turn=8)
    at, scale, along = np.array([100.0, 60.0]), 4.0, 0.3
    (found,) = frame.keypoints(np.array([[*at, scale, along]]))
    tip = frame.xy((at + np.array([np.cos(along), np.sin(along)]))[None])[0]
    np.testing.assert_allclose(found[:2], frame.xy(at[None])[0])
    assert found[2] == 2.0
    np.testing.assert_allclose(found[:2] + 0.5 * np.array([np.cos(found[3]), np.sin(found[3])]), tip)


def test_a_pixel_of_rounding_is_no_other_shape() -> None:
    photos = {"a": Photo(size=(1024, 683), orientation=1)}
    for size in ((1024, 683), (512, 341), (512, 342), (300, 200), (3000, 2001), (3000, 2000)):
        frame = frames_of({"a": size}, photos).of_image["a"]
        assert frame == Reframe(size=size, scaled=(1024, 683))
        assert frame.is_needed == (size != (1024, 683))
    for size in ((512, 339), (683, 1024), (683, 683), (3000, 2010), (0, 0)):
        with pytest.raises(ValueError, match="image 'a'") as caught:
            frames_of({"a": size}, photos)
        assert str(caught.value) == (
            "image 'a': expected a camera of the shape of its photo, 1024 x 683 px, got one of "
            f"{size[0]} x {size[1]} px; give the photos that it was made of"
        )


def test_sizes_tell_whether_photos_were_turned() -> None:
    photos = {
        "quarter": Photo(size=(400, 300), orientation=6),
        "half": Photo(size=(400, 300), orientation=3),
        "square": Photo(size=(300, 300), orientation=8),
        "plain": Photo(size=(400, 300), orientation=1),
    }
    stored = dict.fromkeys(photos, (400, 300)) | {"square": (300, 300)}
    found = frames_of(stored, photos)
    assert {frame.turn for frame in found.of_image.values()} == {1}
    assert (found.assumed, found.tell()) == (0, "")
    # The quarter turn says that the others were turned too.
    found = frames_of(stored | {"quarter": (300, 400)}, photos)
    assert {name: frame.turn for name, frame in found.of_image.items()} == {
        "quarter": 8,
        "half": 3,
        "square": 6,
        "plain": 1,
    }
    assert (found.assumed, found.tell()) == (0, "3 photos turned upright in it")
    del stored["quarter"]
    found = frames_of(stored, photos)
    assert {frame.turn for frame in found.of_image.values()} == {1}
    assert found.assumed == 2
    assert found.tell() == (
        "2 photos that EXIF mirrors or turns, taken for stored as their sizes do not tell"
    )
