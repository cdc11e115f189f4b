"""Local features on disk: shards of consecutive images, read image by image by many processes at once."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from sfm.store import atomic_path


@dataclass(frozen=True, kw_only=True)
class ImageFeatures:
    """Keypoints and local descriptors of one image, by falling scale.

    Attributes:
        image_id: of the collection, from 1.
        name: of the photo.
        width: in stored pixels; so is `height`.
        focal_px: in stored pixels, NaN where unknown.
        keypoints: x, y (stored pixels, centre of the first at .5), scale, orientation in radians.
        descriptors: SIFT: square roots of the L1-normalised histogram, as bytes.

    """

    image_id: int
    name: str
    width: int
    height: int
    focal_px: float
    keypoints: Float32[np.ndarray, "n 4"]
    descriptors: UInt8[np.ndarray, "n 128"]


@dataclass(frozen=True, kw_only=True)
class FeatureStore:
    """Where the features of a collection lie: `shard_size` consecutive image ids to a shard of `folder`."""

    folder: Path
    shard_size: int

    def path(self, shard: int) -> Path:
        """The folder of a shard, which starts with image id shard * shard_size + 1."""
        return self.folder / f"shard-{shard:05d}"

    def read(self, image_ids: Iterable[int]) -> Iterator[ImageFeatures]:
        """Yield the features of images, ids rising; KeyError for an image that has none."""
        for shard, part in groupby(sorted(image_ids), key=lambda image_id: (image_id - 1) // self.shard_size):
            yield from _read_shard(self.path(shard), part)


def write_shard(path: Path, images: Sequence[ImageFeatures]) -> None:
    """Write the features of some images as one shard: descriptors and keypoints end to end, and an index."""
    counts = [len(image.keypoints) for image in images]
    with atomic_path(path) as unfinished:
        unfinished.mkdir()
        np.savez(
            unfinished / "images.npz",
            image_ids=np.array([image.image_id for image in images], dtype=np.int64),
            names=np.array([image.name for image in images], dtype=np.str_),
            sizes=np.array([(image.width, image.height) for image in images], dtype=np.int64).reshape(-1, 2),
            focal_px=np.array([image.focal_px for image in images], dtype=np.float64),
            starts=np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
        )
        keypoints = [image.keypoints for image in images] or [np.empty((0, 4), np.float32)]
        descriptors = [image.descriptors for image in images] or [np.empty((0, 128), np.uint8)]
        np.save(unfinished / "keypoints.npy", np.concatenate(keypoints))
        np.save(unfinished / "descriptors.npy", np.concatenate(descriptors))


def _read_shard(path: Path, image_ids: Iterable[int]) -> Iterator[ImageFeatures]:
    with np.load(path / "images.npz") as stored:
        index = {name: stored[name] for name in stored.files}
    keypoints = np.load(path / "keypoints.npy", mmap_mode="r")
    descriptors = np.load(path / "descriptors.npy", mmap_mode="r")
    row_of = {image_id: row for row, image_id in enumerate(index["image_ids"].tolist())}
    for image_id in image_ids:
        row = row_of[image_id]
        part = slice(index["starts"][row], index["starts"][row + 1])
        yield ImageFeatures(
            image_id=image_id,
            name=str(index["names"][row]),
            width=int(index["sizes"][row, 0]),
            height=int(index["sizes"][row, 1]),
            focal_px=float(index["focal_px"][row]),
            keypoints=np.array(keypoints[part]),
            descriptors=np.array(descriptors[part]),
        )
