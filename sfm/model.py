"""One reconstruction as plain arrays: cameras, poses, points and tracks, with a versioned file.

This is the waist between reconstruction and everything above it: whoever mines, evaluates or draws a model
needs numpy only. Cameras see the +z axis: x_cam = rotation @ x_world + translation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from jaxtyping import Float, Int

from groundwork.arrays import Layout, freeze_arrays
from groundwork.files import atomic_path

# A model beside the files of COLMAP that it was read from.
ARRAYS = "arrays.npz"
FORMAT_VERSION = 1

_LAYOUT: Layout = {
    "rotations": (np.float64, ("n", 3, 3)),
    "translations": (np.float64, ("n", 3)),
    "focal_px": (np.float64, ("n",)),
    "sizes": (np.int64, ("n", 2)),
    "points": (np.float64, ("m", 3)),
    "track_image": (np.int64, ("o",)),
    "track_point": (np.int64, ("o",)),
    "track_xy": (np.float64, ("o", 2)),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """The registered images of one connected reconstruction and the 3D points they see.

    Observation k says that image row `track_image[k]` sees point row `track_point[k]` at pixel `track_xy[k]`.
    An image may observe one point at two pixels: tracks merged by the mapper do. Arrays are checked at
    construction and held as read-only views in float64 and int64.

    Attributes:
        names: images, unique; POSIX paths below the collection's root. Their order is that of the ids in
            COLMAP's files, in a model of our own that of the photos' digests: names do not decide it.
        rotations: cam_from_world.
        translations: cam_from_world, in units of the model.
        focal_px: mean of the camera's two focal lengths.
        sizes: width, height of the stored photo, before its EXIF orientation is applied.
        points: in the world frame of the model, whose origin, rotation and scale are arbitrary.
        track_image: row in `names`.
        track_point: row in `points`.
        track_xy: pixels of the stored photo; the centre of the first pixel is (0.5, 0.5).
        place: component of verified matches that the model belongs to; -1 where unknown, as in the files of
            a reconstruction, whose places are numbered anew whenever photos are added: images.parquet has it.

    """

    names: tuple[str, ...]
    rotations: Float[np.ndarray, "n 3 3"]
    translations: Float[np.ndarray, "n 3"]
    focal_px: Float[np.ndarray, " n"]
    sizes: Int[np.ndarray, "n 2"]
    points: Float[np.ndarray, "m 3"]
    track_image: Int[np.ndarray, " o"]
    track_point: Int[np.ndarray, " o"]
    track_xy: Float[np.ndarray, "o 2"]
    place: int

    def __post_init__(self) -> None:
        freeze_arrays(self, "model", _LAYOUT, n=len(self.names))
        _check_values(self)

    @property
    def num_images(self) -> int:
        """Registered images: rows of the camera arrays."""
        return len(self.names)

    @property
    def num_points(self) -> int:
        """Rows of `points`."""
        return len(self.points)

    @property
    def num_observations(self) -> int:
        """Rows of the track arrays."""
        return len(self.track_image)

    def observations_by_image(self) -> list[Int[np.ndarray, " k"]]:
        """For each image the observations that it makes, in their order."""
        order = np.argsort(self.track_image, kind="stable")
        starts = np.searchsorted(self.track_image[order], np.arange(self.num_images + 1))
        return [order[start:stop] for start, stop in pairwise(starts.tolist())]


def save_model(model: Model, path: Path) -> None:
    """Write the model as an uncompressed .npz, atomically."""
    arrays = {field: getattr(model, field) for field in _LAYOUT}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            version=np.int64(FORMAT_VERSION),
            names=np.array(model.names, dtype=np.str_),
            place=np.int64(model.place),
            **arrays,
        )


def load_model(path: Path) -> Model:
    """Read what `save_model` wrote.

    FileNotFoundError when there is no such file; ValueError when it is not a model or of another version.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            stored = {key: archive[key] for key in archive.files}
    except (BadZipFile, ValueError, EOFError) as error:
        raise ValueError(f"model {path}: expected an .npz archive, got {error}; reconstruct again") from error
    missing = sorted({field.name for field in fields(Model)} - stored.keys())
    if missing:
        raise ValueError(f"model {path}: expected the array '{missing[0]}', got none; reconstruct again")
    version = int(stored["version"]) if "version" in stored else 0
    if version != FORMAT_VERSION:
        raise ValueError(
            f"model {path}: expected format version {FORMAT_VERSION}, got {version}; reconstruct again"
        )
    arrays = {field: stored[field] for field in _LAYOUT}
    return Model(names=tuple(map(str, stored["names"])), place=int(stored["place"]), **arrays)


def _check_values(model: Model) -> None:
    names = model.names
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"model: expected at least one name, all different, got {names[:3]}...; drop repeats"
        )
    if model.place < -1:
        raise ValueError(
            f"model: expected a place >= 0, or -1 for none, got {model.place}; number the places from 0"
        )
    # 1e-6: quaternions of COLMAP files are unit to about 1e-15, float32 copies to 1e-7.
    identity = model.rotations @ model.rotations.transpose(0, 2, 1)
    improper = (np.abs(identity - np.eye(3)).max(axis=(1, 2)) > 1e-6) | (np.linalg.det(model.rotations) < 0)
    if improper.any():
        raise ValueError(
            f"model: expected rotation matrices, got another matrix for '{names[int(improper.argmax())]}'; "
            "give cam_from_world rotations"
        )
    for field in ("translations", "focal_px", "points", "track_xy"):
        if not np.isfinite(getattr(model, field)).all():
            raise ValueError(
                f"model: expected finite '{field}', got infinity; leave out such images and points"
            )
    if (model.focal_px <= 0).any() or (model.sizes <= 0).any():
        raise ValueError("model: expected focal_px > 0 and sizes > 0, got zero or less; check the cameras")
    for field, rows, count in (
        ("track_image", model.track_image, model.num_images),
        ("track_point", model.track_point, model.num_points),
    ):
        if rows.size and (rows.min() < 0 or rows.max() >= count):
            raise ValueError(
                f"model: expected '{field}' in 0..{count - 1}, got {rows.min()}..{rows.max()}; "
                "give rows, not ids"
            )


def only_images(model: Model, kept: Sequence[bool]) -> Model:
    """The model with some of its images, and the points that at least two of them see."""
    images = np.asarray(kept, dtype=np.bool_)
    seen = images[model.track_image]
    pairs = np.unique(np.column_stack([model.track_point, model.track_image])[seen], axis=0)
    points = np.bincount(pairs[:, 0], minlength=model.num_points) >= 2
    seen &= points[model.track_point]
    return replace(
        model,
        names=tuple(name for name, keep in zip(model.names, images.tolist(), strict=True) if keep),
        rotations=model.rotations[images],
        translations=model.translations[images],
        focal_px=model.focal_px[images],
        sizes=model.sizes[images],
        points=model.points[points],
        track_image=(np.cumsum(images) - 1)[model.track_image[seen]],
        track_point=(np.cumsum(points) - 1)[model.track_point[seen]],
        track_xy=model.track_xy[seen],
    )
