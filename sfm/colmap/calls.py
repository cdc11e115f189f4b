"""The only file that imports pycolmap: typed calls with plain arrays, for use in child processes.

Bad input that pycolmap meets in one of its threads ends the process, and so do some of its own errors:
callers run these functions as tasks (groundwork.tasks), and import this module inside them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap
from jaxtyping import Float32, UInt8, UInt32

from groundwork.orientation import upright_size
from sfm.colmap.frames import Reframe
from sfm.featurestore import ImageFeatures
from sfm.model import Model

pycolmap.logging.minloglevel = pycolmap.logging.Level.ERROR.value

# TwoViewGeometry.config of pairs without a geometry: undefined, degenerate.
_NO_GEOMETRY = (0, 1)
# Used where EXIF does not tell the focal length: COLMAP's own guess, times the longer side.
DEFAULT_FOCAL_FACTOR = 1.2


@dataclass(frozen=True, kw_only=True)
class PairGeometry:
    """Outcome of verifying an image pair: a key of `sfm.pair_table.GEOMETRY_KINDS` (1: none), and inliers."""

    geometry_kind: int
    inliers: UInt32[np.ndarray, "n 2"]


Sift = Callable[[UInt8[np.ndarray, "h w"]], tuple[Float32[np.ndarray, "n 4"], UInt8[np.ndarray, "n 128"]]]


def sift(*, max_features: int, first_octave: int) -> Sift:
    """Return a function from a gray image to its keypoints (x, y, scale, orientation) and descriptors."""
    options = pycolmap.FeatureExtractionOptions()
    options.num_threads = 1
    options.use_gpu = False
    options.sift.max_num_features = max_features
    options.sift.first_octave = first_octave
    extractor = pycolmap.FeatureExtractor.create(options)

    def extract(
        gray: UInt8[np.ndarray, "h w"],
    ) -> tuple[Float32[np.ndarray, "n 4"], UInt8[np.ndarray, "n 128"]]:
        keypoints, descriptors = extractor.extract_from_uint8_array(gray)
        if not len(keypoints):
            return np.empty((0, 4), np.float32), np.empty((0, 128), np.uint8)
        return pycolmap.keypoints_to_matrix(keypoints), np.asarray(descriptors.data, dtype=np.uint8)

    return extract


def verify(
    one: ImageFeatures,
    two: ImageFeatures,
    matches: UInt32[np.ndarray, "n 2"],
    *,
    max_error_px: float,
    max_trials: int,
    min_inliers: int,
    seed: int,
) -> PairGeometry:
    """Find the two-view geometry of an image pair and the matches that agree with it."""
    options = pycolmap.TwoViewGeometryOptions()
    options.min_num_inliers = min_inliers
    options.ransac.max_error = max_error_px
    options.ransac.max_num_trials = max_trials
    options.ransac.random_seed = seed
    # Two numbers: photos of one camera with unknown focal length get another solver, which takes six times as
    # long and finds fewer inliers among many wrong matches.
    geometry = pycolmap.estimate_two_view_geometry(
        _camera(one, 1), one.keypoints[:, :2], _camera(two, 2), two.keypoints[:, :2], matches, options
    )
    inliers = np.asarray(geometry.inlier_matches, dtype=np.uint32).reshape(-1, 2)
    if geometry.config in _NO_GEOMETRY or len(inliers) < min_inliers:
        return PairGeometry(geometry_kind=1, inliers=np.empty((0, 2), np.uint32))
    return PairGeometry(geometry_kind=geometry.config, inliers=inliers)


def write_database(
    path: Path,
    images: Sequence[ImageFeatures],
    camera_of_image: Mapping[int, int],
    pairs: Iterable[tuple[int, int, PairGeometry]],
) -> None:
    """Write what mapping needs: cameras, keypoints and verified pairs. Images of one camera share it."""
    with pycolmap.Database.open(path) as database, pycolmap.DatabaseTransaction(database):
        for image in images:
            _write_image(database, image, camera_of_image[image.image_id])
        for image_id1, image_id2, pair in pairs:
            geometry = pycolmap.TwoViewGeometry(config=pair.geometry_kind, inlier_matches=pair.inliers)
            database.write_two_view_geometry(image_id1, image_id2, geometry)


@dataclass(frozen=True, kw_only=True)
class IncrementalOptions:
    """Settings of the incremental mapper that we set; all others keep COLMAP's defaults."""

    seed: int
    init_min_inliers: int
    init_min_angle_deg: float
    refine_distortion: bool
    min_model_size: int
    max_models: int
    global_ba_ratio: float
    global_ba_refinements: int


def map_incrementally(database: Path, out: Path, options: IncrementalOptions) -> None:
    """Reconstruct the images of a database into the folders `out`/0, 1, ..., image after image."""
    pipeline = pycolmap.IncrementalPipelineOptions()
    pipeline.random_seed = options.seed
    pipeline.num_threads = 1
    pipeline.extract_colors = False
    pipeline.multiple_models = True
    pipeline.max_num_models = options.max_models
    pipeline.min_model_size = options.min_model_size
    pipeline.ba_global_frames_ratio = options.global_ba_ratio
    pipeline.ba_global_points_ratio = options.global_ba_ratio
    pipeline.ba_global_max_refinements = options.global_ba_refinements
    pipeline.ba_refine_extra_params = options.refine_distortion
    pipeline.mapper.init_min_num_inliers = options.init_min_inliers
    pipeline.mapper.init_min_tri_angle = options.init_min_angle_deg
    pipeline.mapper.random_seed = options.seed
    pipeline.mapper.num_threads = 1
    pipeline.triangulation.random_seed = options.seed
    out.mkdir()
    models = pycolmap.incremental_mapping(database, database.parent, out, options=pipeline)
    for number, model in models.items():
        if _drop_degenerate_cameras(model):
            model.write(out / str(number))


def map_globally(database: Path, out: Path, *, min_model_size: int, seed: int) -> None:
    """Reconstruct the images of a database into the folders `out`/0, 1, ..., all images at once.

    L. Pan et al., "Global structure-from-motion revisited", ECCV 2024, as COLMAP has it. Changes the
    database: the relative poses that the mapper averages are estimated from the pairs' inliers.
    """
    _add_relative_poses(database, seed)
    pipeline = pycolmap.GlobalPipelineOptions()
    pipeline.min_model_size = min_model_size
    pipeline.mapper.global_positioning.use_gpu = False
    pipeline.mapper.bundle_adjustment.ceres.use_gpu = False
    for seeded in (
        pipeline,
        pipeline.mapper,
        pipeline.mapper.rotation_averaging,
        pipeline.mapper.global_positioning,
        pipeline.mapper.retriangulation,
    ):
        seeded.random_seed = seed
    pipeline.num_threads = pipeline.mapper.num_threads = 1
    out.mkdir()
    found = out.with_name(f"{out.name}-found")
    found.mkdir()
    models = pycolmap.global_mapping(database, database.parent, found, options=pipeline)
    # Its own folders are in another order than its answer: each model is written again under its number.
    for number, model in models.items():
        _drop_degenerate_cameras(model)
        (out / str(number)).mkdir()
        model.write(out / str(number))


def _add_relative_poses(path: Path, seed: int) -> None:
    options = pycolmap.TwoViewGeometryOptions()
    options.compute_relative_pose = True
    options.ransac.random_seed = seed
    with pycolmap.Database.open(path) as database, pycolmap.DatabaseTransaction(database):
        images = {image.image_id: image for image in database.read_all_images()}
        cameras = {camera.camera_id: camera for camera in database.read_all_cameras()}
        pair_ids, geometries = database.read_two_view_geometries()
        for pair_id, geometry in zip(pair_ids, geometries, strict=True):
            one, two = pycolmap.pair_id_to_image_pair(pair_id)
            posed = pycolmap.estimate_two_view_geometry(
                cameras[images[one].camera_id],
                np.asarray(database.read_keypoints(one), dtype=np.float64)[:, :2],
                cameras[images[two].camera_id],
                np.asarray(database.read_keypoints(two), dtype=np.float64)[:, :2],
                np.asarray(geometry.inlier_matches, dtype=np.uint32),
                options,
            )
            if posed.config not in _NO_GEOMETRY:
                database.update_two_view_geometry(one, two, posed)


def _drop_degenerate_cameras(model: pycolmap.Reconstruction) -> int:
    """Take out the images whose focal length or distortion ran away, as the last adjustment may let them."""
    options = pycolmap.IncrementalPipelineOptions()
    limits = (options.min_focal_length_ratio, options.max_focal_length_ratio, options.max_extra_param)
    dropped = {
        image.frame_id
        for image in model.images.values()
        if image.has_pose and image.camera.has_bogus_params(*limits)
    }
    for frame_id in dropped:
        model.deregister_frame(frame_id)
    return len(dropped)


def _write_image(database: pycolmap.Database, image: ImageFeatures, camera_id: int) -> None:
    if not database.exists_camera(camera_id):
        database.write_camera(_camera(image, camera_id), use_camera_id=True)
    row = pycolmap.Image(name=image.name, camera_id=camera_id, image_id=image.image_id)
    database.write_image(row, use_image_id=True)
    database.write_keypoints(image.image_id, image.keypoints[:, :2])


def _camera(image: ImageFeatures, camera_id: int) -> pycolmap.Camera:
    if image.camera is not None:
        given = pycolmap.Camera(
            camera_id=camera_id,
            model=pycolmap.CameraModelId(image.camera.model),
            width=image.width,
            height=image.height,
            params=list(image.camera.params),
        )
        given.has_prior_focal_length = image.camera.known
        return given
    known = not np.isnan(image.focal_px)
    focal_px = image.focal_px if known else DEFAULT_FOCAL_FACTOR * max(image.width, image.height)
    camera = pycolmap.Camera.create_from_model_name(
        camera_id, "SIMPLE_RADIAL", focal_px, image.width, image.height
    )
    camera.has_prior_focal_length = known
    return camera


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
