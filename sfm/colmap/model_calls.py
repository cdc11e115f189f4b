"""Calls of pycolmap about models that lie in a folder: read, copy, bring into another frame, summarise.

For use in child processes, as `sfm.colmap.calls`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap

from groundwork.orientation import upright_size
from sfm.colmap.frames import Reframe
from sfm.model import Model

pycolmap.logging.minloglevel = pycolmap.logging.Level.ERROR.value


def read_reconstruction(folder: Path) -> Model:
    """Read a COLMAP model folder as plain arrays, of no known place; images in the order of their ids."""
    reconstruction = pycolmap.Reconstruction(folder)
    images = sorted(
        (image for image in reconstruction.images.values() if image.has_pose),
        key=lambda image: image.image_id,
    )
    row_of_point = {point_id: row for row, point_id in enumerate(sorted(reconstruction.points3D))}
    points = [reconstruction.points3D[point_id].xyz for point_id in row_of_point]
    track_image, track_point, track_xy = [], [], []
    for row, image in enumerate(images):
        for observed in image.get_observation_points2D():
            track_image.append(row)
            track_point.append(row_of_point[observed.point3D_id])
            track_xy.append(observed.xy)
    poses = [image.cam_from_world() for image in images]
    return Model(
        names=tuple(image.name for image in images),
        rotations=np.array([pose.rotation.matrix() for pose in poses]),
        translations=np.array([pose.translation for pose in poses]),
        focal_px=np.array([image.camera.mean_focal_length() for image in images]),
        sizes=np.array([(image.camera.width, image.camera.height) for image in images]),
        points=np.array(points).reshape(-1, 3),
        track_image=np.array(track_image, dtype=np.int64),
        track_point=np.array(track_point, dtype=np.int64),
        track_xy=np.array(track_xy).reshape(-1, 2),
        place=-1,
    )


def copy_reconstruction(source: Path, out: Path) -> None:
    """Write the COLMAP model of one folder, binary or text, to another one, binary."""
    pycolmap.Reconstruction(source).write(out)


def write_reframed(source: Path, out: Path, frames: Mapping[str, Reframe]) -> None:
    """Write the COLMAP model of a folder to another one, with cameras, poses and points of the stored photos.

    Only the images of `frames` come along, which must not mirror them, and the points that two of them see.
    Every camera gets a rig of its own; points are numbered anew.
    """
    found, made = pycolmap.Reconstruction(source), pycolmap.Reconstruction()
    camera_ids: dict[tuple[int, Reframe], int] = {}
    images = [image for _, image in sorted(found.images.items()) if image.has_pose and image.name in frames]
    for image in images:
        frame = frames[image.name]
        camera_id = camera_ids.setdefault((image.camera_id, frame), len(camera_ids) + 1)
        if not made.exists_camera(camera_id):
            made.add_camera_with_trivial_rig(_reframed_camera(image.camera, frame, camera_id))
        xy = frame.xy(np.array([point.xy for point in image.points2D]).reshape(-1, 2))
        turning = np.eye(3)
        turning[:2, :2] = frame.turning
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d(turning), np.zeros(3)) * image.cam_from_world()
        row = pycolmap.Image(
            name=image.name,
            camera_id=camera_id,
            image_id=image.image_id,
            points2D=[pycolmap.Point2D(position) for position in xy],
        )
        made.add_image_with_trivial_frame(row, pose)
    kept = {image.image_id for image in images}
    for _, point in sorted(found.points3D.items()):
        seen = [element for element in point.track.elements if element.image_id in kept]
        if len({element.image_id for element in seen}) >= 2:
            made.add_point3D(point.xyz, pycolmap.Track(seen), point.color)
    made.update_point_3d_errors()
    made.write(out)


def _reframed_camera(camera: pycolmap.Camera, frame: Reframe, camera_id: int) -> pycolmap.Camera:
    width, height = upright_size(*frame.scaled, frame.turn)
    made = pycolmap.Camera(
        camera_id=camera_id,
        model=camera.model,
        width=width,
        height=height,
        params=frame.params(int(camera.model), camera.params.tolist()),
    )
    made.has_prior_focal_length = camera.has_prior_focal_length
    return made


@dataclass(frozen=True, kw_only=True)
class ModelSummary:
    """Counts and means of a model: per point and image; errors in pixels of the stored photos."""

    images: int
    points: int
    track_length: float
    observations: float
    reprojection_error_px: float


def summarise(folder: Path) -> ModelSummary:
    """Counts and means of a COLMAP model folder; zero means where it holds no point or image."""
    model = pycolmap.Reconstruction(folder)
    model.update_point_3d_errors()
    images, points = int(model.num_reg_images()), int(model.num_points3D())
    observations = int(model.compute_num_observations())
    return ModelSummary(
        images=images,
        points=points,
        track_length=observations / max(points, 1),
        observations=observations / max(images, 1),
        reprojection_error_px=float(model.compute_mean_reprojection_error()) if points else 0.0,
    )
