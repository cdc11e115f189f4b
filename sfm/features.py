"""Stage: usable photos to keypoints and local descriptors, in shards of up to 256 images."""

import hashlib
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int, Shaped

from groundwork.batches import CHILD_BYTES, Batch, LazyBatches
from groundwork.keys import key_of
from groundwork.memory import give_back
from groundwork.photos import UnusablePhoto
from groundwork.records import load_done, mark_done, prune
from groundwork.tasks import run_batches, usage
from sfm.collection import Collection
from sfm.detection import FeatureConfig, detector
from sfm.featurestore import FeatureStore, ImageFeatures, write_descriptors, write_shard
from sfm.local_features.interface import FeatureFault, process_bytes, stated_bytes
from sfm.numbering import digests

# What the records of this stage and of the size of its shards are called.
STAGE, SHARDS = "features", "shards"
_MAX_SHARD = 256
# A pixel as decoded; a pixel of the first octave while SIFT is searched for (measured: 74 to 80); a
# keypoint with its descriptor, twice while they are put end to end, half as many again as were asked for.
_DECODED_BYTES = 4
_SEARCHED_BYTES = 80
_KEYPOINT_BYTES = 432
# A collection that grew until its shards should be so many times larger is dealt out anew.
_MAX_OUTGROWN = 8


@dataclass(frozen=True, kw_only=True)
class Features:
    """Local features of a collection.

    Attributes:
        store: the features themselves, the best of an image first: for SIFT the largest.
        num_keypoints: of image_id r + 1 in row r; 0 for images that failed.
        failed: image_id -> reason, for photos that became unreadable or kill their worker.
        key: changes with anything that changes a feature.
        photos: the folder they were found in.
        sha256: of each photo's bytes, in hex; of image_id r + 1 in row r.
        config: by which they were found.

    """

    store: FeatureStore
    num_keypoints: Int[np.ndarray, " n"]
    failed: dict[int, str]
    key: str
    photos: Path
    sha256: Shaped[np.ndarray, " n"]
    config: FeatureConfig

    @property
    def settings_key(self) -> str:
        """Changes with anything that changes the features of a photo whose bytes stay the same."""
        return self.config.key

    @property
    def basis(self) -> dict[str, Any]:
        """What `extends` needs to know the photos again, for the record of what is made of them."""
        return {"images": len(self.sha256), "photos": self._photos_key(len(self.sha256))}

    def extends(self, basis: dict[str, Any]) -> bool:
        """Whether the photos of that `basis` are still the first ones, under the same numbers."""
        return bool(basis["photos"] == self._photos_key(basis["images"]))

    def _photos_key(self, count: int) -> str:
        return hashlib.sha256(np.ascontiguousarray(self.sha256[:count], dtype="S64").data).hexdigest()


@dataclass(frozen=True, slots=True)
class _Item:
    image_id: int
    name: str
    width: int
    height: int
    focal_px: float


def extract_features(
    collection: Collection,
    out: Path,
    config: FeatureConfig,
    executor: Executor,
    wanted: Bool[np.ndarray, " n"] | None = None,
) -> Features:
    """Find keypoints in every usable photo, as stored: the EXIF orientation is not applied.

    Or in those that are `wanted`, the photo of image_id r + 1 in row r; the others have no keypoints then.

    Shards go to `out`/features. The result does not depend on the number of workers: photos are dealt out
    by their number alone. The size of a shard is chosen for the collection as it is at first and kept when
    photos are added, which fill the last shard and then open new ones.
    """
    started = time.perf_counter()
    key = key_of(config.key, collection.key, *([] if wanted is None else [np.flatnonzero(wanted).tolist()]))
    usable = collection.of_usable("image_id", "name", "width", "height", "focal_px", "sha256")
    store = FeatureStore(folder=out / "features", shard_size=_shard_size(out / "features", len(usable)))
    shards = _Shards(usable, config, store, wanted)
    extract = partial(_extract_batch, photos=collection.photos, store=store, config=config)
    results = run_batches(extract, shards, store.folder, executor, label="features")
    num_keypoints = np.zeros(len(usable), dtype=np.int64)
    failed: dict[int, str] = {}
    for shard, result in enumerate(results):
        rows = np.array(result.facts["image_ids"], dtype=np.int64) - 1
        num_keypoints[rows] = result.facts["num_keypoints"]
        failed |= {int(image_id): reason for image_id, reason in result.facts["failed"].items()}
        if result.quarantined:
            items = shards[shard].items
            failed |= {items[position].image_id: text for position, text in result.quarantined.items()}
    done = load_done(out, STAGE, key)
    # Earlier versions did not say in their record by which settings features were found.
    if done is None or not done.basis:
        prune(store.folder, "shard-*", {result.name for result in results})
        facts = {
            "keypoints": int(num_keypoints.sum()),
            "failed": len(failed),
            **usage(results),
        }
        seconds, basis = time.perf_counter() - started, {"config": config.model_dump(mode="json")}
        mark_done(out, STAGE, key, seconds=seconds, facts=facts, basis=basis)
    sha256 = digests(usable["sha256"])
    del usable, shards, results  # of a million photos a tenth of a gigabyte, which would stay
    give_back()
    return Features(
        store=store,
        num_keypoints=num_keypoints,
        failed=failed,
        key=key,
        photos=collection.photos,
        sha256=sha256,
        config=config,
    )


def _shard_size(folder: Path, num_images: int) -> int:
    """The size chosen for this folder at first; another one only where that has become far too small."""
    chosen, key = min(_MAX_SHARD, max(4, ceil(num_images / 64))), key_of("shards")
    record = load_done(folder, SHARDS, key)
    if record and chosen <= _MAX_OUTGROWN * int(record.basis["shard_size"]):
        return int(record.basis["shard_size"])
    mark_done(folder, SHARDS, key, basis={"shard_size": chosen})
    return chosen


class _Shards(LazyBatches[_Item]):
    """The photos of each shard, put together when they are asked for: memory holds one shard at a time."""

    def __init__(
        self,
        usable: pd.DataFrame,
        config: FeatureConfig,
        store: FeatureStore,
        wanted: Bool[np.ndarray, " n"] | None,
    ) -> None:
        self._usable, self._config, self._store, self._wanted = usable, config, store, wanted
        self._settings_key = config.key
        self._pixel_bytes = stated_bytes(config.method, "pixel_bytes", _SEARCHED_BYTES)

    def __len__(self) -> int:
        return ceil(len(self._usable) / self._store.shard_size)

    def batch(self, shard: int) -> Batch[_Item]:
        """The photos of one shard."""
        start = shard * self._store.shard_size
        part = self._usable.iloc[start : start + self._store.shard_size]
        if self._wanted is not None:
            part = part[self._wanted[start : start + self._store.shard_size]]
        columns = (part[name].tolist() for name in ("image_id", "name", "width", "height", "focal_px"))
        items = tuple(_Item(*row) for row in zip(*columns, strict=True))
        shown = [part[name].tolist() for name in ("image_id", "name", "sha256")]
        return Batch(
            name=self._store.name(shard),
            key=key_of(self._settings_key, shown),
            items=items,
            memory_bytes=_memory_bytes(items, self._config, self._pixel_bytes),
        )


def _memory_bytes(items: Sequence[_Item], config: FeatureConfig, pixel_bytes: int) -> int:
    """Peak of a task: the largest photo as it is decoded and searched, and the features of all."""
    if not items:
        return CHILD_BYTES
    pixels = max(item.width * item.height for item in items)
    shrink = min(1.0, config.max_side_px / max(max(item.width, item.height) for item in items))
    searched = shrink**2 * pixels * 4.0**-config.first_octave
    kept = len(items) * config.max_features * _KEYPOINT_BYTES
    found = int(_DECODED_BYTES * pixels + pixel_bytes * searched) + kept
    return process_bytes(config.method) + found


def _extract_batch(
    batch: Batch[_Item], *, photos: Path, store: FeatureStore, config: FeatureConfig
) -> tuple[dict[str, Any], Sequence[Path]]:
    detect = detector(config)
    images, descriptors, failed = [], [], {}
    for item in batch.items:
        try:
            keypoints, rows = detect(photos / item.name, item.width, item.height)
        except UnusablePhoto as finding:
            failed[item.image_id] = f"unreadable since the scan: {finding}"
            continue
        except FeatureFault as fault:
            failed[item.image_id] = str(fault)
            continue
        descriptors.append(rows)
        images.append(
            ImageFeatures(
                image_id=item.image_id,
                name=item.name,
                width=item.width,
                height=item.height,
                focal_px=item.focal_px,
                keypoints=keypoints,
            )
        )
    image_ids = [image.image_id for image in images]
    # Descriptors have a record of their own: they can go without the shard being taken for damaged.
    apart = store.descriptors / batch.name
    write_descriptors(apart, image_ids, descriptors)
    mark_done(store.descriptors, batch.name, batch.key, outputs=[apart])
    path = store.folder / batch.name
    write_shard(path, images)
    facts = {
        "image_ids": image_ids,
        "num_keypoints": [len(image.keypoints) for image in images],
        "failed": failed,
    }
    return facts, [path]
