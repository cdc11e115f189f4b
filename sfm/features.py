"""Stage: usable photos to keypoints and local descriptors, in shards of up to 256 images."""

import math
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int, UInt8
from pydantic import Field

from sfm.collection import Collection
from sfm.featurestore import FeatureStore, ImageFeatures, write_shard
from sfm.photo import load_gray
from sfm.settings import Settings
from sfm.store import key_of, load_done, mark_done
from sfm.tasks import Batch, run_batches, usage

_VERSION = 2
_MAX_SHARD = 256


class FeatureConfig(Settings):
    """How local features are found."""

    max_side_px: int = Field(
        default=1600, ge=64, description="larger photos are shrunk to this longer side first"
    )
    max_features: int = Field(default=2048, ge=16, description="keypoints kept a photo, the largest ones")
    first_octave: int = Field(
        default=0, ge=-1, le=2, description="-1 doubles the photo first: 3 x the time and memory"
    )


@dataclass(frozen=True, kw_only=True)
class Features:
    """Local features of a collection.

    Attributes:
        store: the features themselves, those of an image by falling scale.
        num_keypoints: of image_id r + 1 in row r; 0 for images that failed.
        failed: image_id -> reason, for photos that became unreadable or kill their worker.
        key: changes with anything that changes a feature.

    """

    store: FeatureStore
    num_keypoints: Int[np.ndarray, " n"]
    failed: dict[int, str]
    key: str


@dataclass(frozen=True)
class _Item:
    image_id: int
    name: str
    width: int
    height: int
    focal_px: float


def extract_features(
    collection: Collection, out: Path, config: FeatureConfig, executor: Executor
) -> Features:
    """Find SIFT keypoints in every usable photo, as stored: the EXIF orientation is not applied.

    Shards go to `out`/features. The result does not depend on the number of workers: photos are dealt out
    by their number alone.
    """
    started = time.perf_counter()
    key = key_of("features", _VERSION, version("pycolmap"), version("pillow"), config, collection.key)
    shard_size = min(_MAX_SHARD, max(4, ceil(len(collection.usable) / 64)))
    store = FeatureStore(folder=out / "features", shard_size=shard_size)
    batches = _batches(collection, config, store)
    extract = partial(_extract_batch, photos=collection.photos, store=store, config=config)
    results = run_batches(extract, batches, store.folder, executor, label="features")
    num_keypoints = np.zeros(len(collection.usable), dtype=np.int64)
    failed: dict[int, str] = {}
    for batch, result in zip(batches, results, strict=True):
        rows = np.array(result.facts["image_ids"], dtype=np.int64) - 1
        num_keypoints[rows] = result.facts["num_keypoints"]
        failed |= {int(image_id): reason for image_id, reason in result.facts["failed"].items()}
        failed |= {batch.items[position].image_id: text for position, text in result.quarantined.items()}
    if not load_done(out, "features", key):
        facts = {
            "keypoints": int(num_keypoints.sum()),
            "failed": len(failed),
            **usage(results),
        }
        mark_done(out, "features", key, seconds=time.perf_counter() - started, facts=facts)
    return Features(store=store, num_keypoints=num_keypoints, failed=failed, key=key)


def _batches(collection: Collection, config: FeatureConfig, store: FeatureStore) -> list[Batch[_Item]]:
    usable = collection.usable
    columns = (usable[name] for name in ("image_id", "name", "width", "height", "focal_px"))
    items = [
        _Item(int(image_id), name, int(width), int(height), float(focal_px))
        for image_id, name, width, height, focal_px in zip(*columns, strict=True)
    ]
    hashes = usable["sha256"].tolist()
    batches = []
    for shard, start in enumerate(range(0, len(items), store.shard_size)):
        part = tuple(items[start : start + store.shard_size])
        shown = [(item.image_id, item.name) for item in part]
        batch_key = key_of(
            _VERSION, version("pycolmap"), config, shown, hashes[start : start + store.shard_size]
        )
        batches.append(Batch(name=store.path(shard).name, key=batch_key, items=part))
    return batches


def _extract_batch(
    batch: Batch[_Item], *, photos: Path, store: FeatureStore, config: FeatureConfig
) -> tuple[dict[str, Any], Sequence[Path]]:
    from sfm import colmap  # in the child only: pycolmap is heavy, and ends the process when it fails

    sift = colmap.sift(max_features=config.max_features, first_octave=config.first_octave)
    images, failed = [], {}
    for item in batch.items:
        try:
            gray = load_gray(photos / item.name, config.max_side_px)
        except OSError as error:
            failed[item.image_id] = f"unreadable since the scan: {error.strerror or 'damaged'}"
            continue
        keypoints, descriptors = _largest_first(*sift(gray))
        images.append(
            ImageFeatures(
                image_id=item.image_id,
                name=item.name,
                width=item.width,
                height=item.height,
                focal_px=item.focal_px,
                keypoints=_in_stored_pixels(
                    keypoints, item.width / gray.shape[1], item.height / gray.shape[0]
                ),
                descriptors=descriptors,
            )
        )
    path = store.folder / batch.name
    write_shard(path, images)
    facts = {
        "image_ids": [image.image_id for image in images],
        "num_keypoints": [len(image.keypoints) for image in images],
        "failed": failed,
    }
    return facts, [path]


def _largest_first(
    keypoints: Float32[np.ndarray, "n 4"], descriptors: UInt8[np.ndarray, "n 128"]
) -> tuple[Float32[np.ndarray, "n 4"], UInt8[np.ndarray, "n 128"]]:
    order = np.argsort(-keypoints[:, 2], kind="stable")
    return keypoints[order], descriptors[order]


def _in_stored_pixels(
    keypoints: Float32[np.ndarray, "n 4"], stretch_x: float, stretch_y: float
) -> Float32[np.ndarray, "n 4"]:
    """Keypoints x, y, scale, orientation of a shrunk photo in pixels of the stored one."""
    stretch = np.array([stretch_x, stretch_y, math.sqrt(stretch_x * stretch_y), 1.0], dtype=np.float32)
    return keypoints * stretch
