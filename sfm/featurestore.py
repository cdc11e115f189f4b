"""Local features on disk: shards of consecutive images, read image by image by many processes at once.

Keypoints and descriptors lie apart: keypoints are needed to the end, descriptors, which take four fifths of
the room, until the pairs are matched.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped

from groundwork.arrays import starts_of
from groundwork.files import atomic_path


@dataclass(frozen=True, kw_only=True)
class GivenCamera:
    """A camera as somebody described it before us.

    Attributes:
        model: COLMAP's number of it.
        params: its parameters, as COLMAP orders them.
        known: whether its focal length is more than a guess.

    """

    model: int
    params: tuple[float, ...]
    known: bool


@dataclass(frozen=True, kw_only=True)
class ImageFeatures:
    """Keypoints of one image; of ours the best come first.

    Attributes:
        image_id: of the collection, from 1.
        name: of the photo.
        width: in stored pixels; so is `height`.
        focal_px: in stored pixels, NaN where unknown.
        keypoints: x, y (stored pixels, centre of the first at .5), scale, orientation in radians.
        camera: where it is given; else one of a simple kind is made of `focal_px`.

    """

    image_id: int
    name: str
    width: int
    height: int
    focal_px: float
    keypoints: Float32[np.ndarray, "n 4"]
    camera: GivenCamera | None = None


@dataclass(frozen=True, kw_only=True)
class FeatureStore:
    """Where the features of a collection lie: `shard_size` consecutive image ids to a shard of `folder`."""

    folder: Path
    shard_size: int

    @property
    def descriptors(self) -> Path:
        """The folder of the descriptors, which may be gone: see sfm.descriptors."""
        return self.folder / "descriptors"

    def shard_of(self, image_id: int) -> int:
        """The number of the shard that holds an image; it starts with image id shard * shard_size + 1."""
        return (image_id - 1) // self.shard_size

    def name(self, shard: int) -> str:
        """The name of a shard: of its folder in `folder`, and of that in `descriptors`."""
        return f"shard-{shard:05d}"

    def read(self, image_ids: Iterable[int]) -> Iterator[ImageFeatures]:
        """Yield the keypoints of images, ids rising; KeyError for an image that has none."""
        for shard, part in groupby(sorted(image_ids), key=self.shard_of):
            yield from _read_shard(self.folder / self.name(shard), part)

    def known(self, image_ids: Iterable[int]) -> list[int]:
        """Those of some images that have keypoints here, ids rising."""
        found = []
        for shard, part in groupby(sorted(image_ids), key=self.shard_of):
            if (path := self.folder / self.name(shard) / "images.npz").is_file():
                with np.load(path) as stored:
                    found += sorted(set(part) & set(stored["image_ids"].tolist()))
        return found

    def read_keypoints(self, image_ids: Iterable[int]) -> Iterator[tuple[int, Float32[np.ndarray, "n 4"]]]:
        """As `read`, of each image its id and keypoints alone: a third of the time."""
        for shard, part in groupby(sorted(image_ids), key=self.shard_of):
            yield from _read_rows(self.folder / self.name(shard), "keypoints.npy", part)

    def read_descriptors(self, image_ids: Iterable[int]) -> Iterator[tuple[int, Shaped[np.ndarray, "n d"]]]:
        """Yield (image_id, descriptors), ids rising, a row a keypoint; KeyError for an image that has none.

        Those of SIFT are square roots of the L1-normalised histogram, as bytes.
        """
        for shard, part in groupby(sorted(image_ids), key=self.shard_of):
            yield from _read_rows(self.descriptors / self.name(shard), "descriptors.npy", part)


def write_shard(path: Path, images: Sequence[ImageFeatures]) -> None:
    """Write the keypoints of some images as one shard: end to end, with an index."""
    keypoints = [image.keypoints for image in images]
    with atomic_path(path) as unfinished:
        unfinished.mkdir()
        np.savez(
            unfinished / "images.npz",
            image_ids=np.array([image.image_id for image in images], dtype=np.int64),
            names=np.array([image.name for image in images], dtype=np.str_),
            sizes=np.array([(image.width, image.height) for image in images], dtype=np.int64).reshape(-1, 2),
            focal_px=np.array([image.focal_px for image in images], dtype=np.float64),
            starts=starts_of(keypoints),
            **_camera_arrays(images),
        )
        rows = keypoints or [np.empty((0, 4), np.float32)]
        np.save(unfinished / "keypoints.npy", np.concatenate(rows))


def write_descriptors(
    path: Path, image_ids: Sequence[int], descriptors: Sequence[Shaped[np.ndarray, "n d"]]
) -> None:
    """Write the descriptors of some images of one shard: end to end, with an index."""
    starts = starts_of(descriptors)
    with atomic_path(path) as unfinished:
        unfinished.mkdir()
        np.savez(unfinished / "images.npz", image_ids=np.array(image_ids, dtype=np.int64), starts=starts)
        rows = [part for part in descriptors if len(part)] or [np.empty((0, 128), np.uint8)]
        np.save(unfinished / "descriptors.npy", np.concatenate(rows))


def _read_shard(path: Path, image_ids: Iterable[int]) -> Iterator[ImageFeatures]:
    with np.load(path / "images.npz") as stored:
        index = {name: stored[name] for name in stored.files}
    keypoints = np.load(path / "keypoints.npy", mmap_mode="r")
    row_of = {image_id: row for row, image_id in enumerate(index["image_ids"].tolist())}
    for image_id in image_ids:
        row = row_of[image_id]
        yield ImageFeatures(
            image_id=image_id,
            name=str(index["names"][row]),
            width=int(index["sizes"][row, 0]),
            height=int(index["sizes"][row, 1]),
            focal_px=float(index["focal_px"][row]),
            keypoints=np.array(keypoints[index["starts"][row] : index["starts"][row + 1]]),
            camera=_given_camera(index, row),
        )


def _camera_arrays(images: Sequence[ImageFeatures]) -> dict[str, Any]:
    """The cameras of a shard in which each is given; nothing for one of our own."""
    given = [image.camera for image in images if image.camera is not None]
    if not given:
        return {}
    params = np.full((len(images), max(len(camera.params) for camera in given)), np.nan)
    for row, camera in enumerate(given):
        params[row, : len(camera.params)] = camera.params
    return {
        "camera_models": np.array([camera.model for camera in given], dtype=np.int64),
        "camera_known": np.array([camera.known for camera in given], dtype=np.bool_),
        "camera_num_params": np.array([len(camera.params) for camera in given], dtype=np.int64),
        "camera_params": params,
    }


def _given_camera(index: dict[str, Shaped[np.ndarray, "n ..."]], row: int) -> GivenCamera | None:
    if "camera_models" not in index:
        return None
    params = index["camera_params"][row, : index["camera_num_params"][row]]
    return GivenCamera(
        model=int(index["camera_models"][row]),
        params=tuple(params.tolist()),
        known=bool(index["camera_known"][row]),
    )


def _read_rows(
    path: Path, name: str, image_ids: Iterable[int]
) -> Iterator[tuple[int, Shaped[np.ndarray, "n d"]]]:
    """The rows of some images of one shard in one of its files."""
    with np.load(path / "images.npz") as stored:
        starts, row_of = stored["starts"], {image_id: row for row, image_id in enumerate(stored["image_ids"])}
    rows = np.load(path / name, mmap_mode="r")
    for image_id in image_ids:
        row = row_of[image_id]
        yield image_id, np.array(rows[starts[row] : starts[row + 1]])
