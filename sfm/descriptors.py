"""Local descriptors: on disk while pairs are matched, dropped afterwards, made again where needed."""

import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from groundwork.batches import Batch
from groundwork.files import discard
from groundwork.keys import key_of
from groundwork.photos import UnusablePhoto
from groundwork.records import last_done
from groundwork.tasks import run_batches
from sfm.detection import FeatureConfig, detector
from sfm.features import Features
from sfm.featurestore import FeatureStore, write_descriptors
from sfm.local_features.interface import FeatureFault

logger = logging.getLogger(__name__)


def require_descriptors(features: Features, image_ids: Iterable[int], executor: Executor) -> None:
    """See to it that the descriptors of these images can be read from `features.store`.

    Those that were dropped are extracted again from their photos, and no others; FileNotFoundError or OSError
    where a photo cannot be read any more.
    """
    store, settings_key, batches = features.store, features.settings_key, []
    for shard, part in groupby(sorted(image_ids), key=store.shard_of):
        needed, there = set(part), described(store, shard)
        if not needed <= there:
            items = tuple(sorted(needed | there))
            hashes = features.sha256[np.array(items) - 1].astype(str).tolist()
            key = key_of("descriptors", settings_key, items, hashes)
            batches.append(Batch(name=store.name(shard), key=key, items=items))
    if batches:
        count = sum(len(batch.items) for batch in batches)
        logger.info("descriptors of %d photos are not on disk any more; they are extracted again", count)
        work = partial(_describe_batch, photos=features.photos, store=store, config=features.config)
        run_batches(work, batches, store.descriptors, executor, label="descriptors")


def drop_descriptors(features: Features) -> None:
    """Remove all descriptors; `require_descriptors` makes again what is needed."""
    discard(features.store.descriptors)


def described(store: FeatureStore, shard: int) -> set[int]:
    """The images of a shard whose descriptors are on disk, whole."""
    if last_done(store.descriptors, store.name(shard)) is None:
        return set()
    with np.load(store.descriptors / store.name(shard) / "images.npz") as index:
        return set(index["image_ids"].tolist())


def _describe_batch(
    batch: Batch[int], *, photos: Path, store: FeatureStore, config: FeatureConfig
) -> tuple[dict[str, Any], Sequence[Path]]:
    detect = detector(config)
    descriptors = []
    for image in store.read(batch.items):
        try:
            _, rows = detect(photos / image.name, image.width, image.height)
        except UnusablePhoto as finding:
            raise OSError(
                f"photo {image.name}: expected to read it again for its descriptors, got '{finding}'; "
                "put it back, or run again to go on without it"
            ) from finding
        except FeatureFault as fault:
            raise ValueError(
                f"photo {image.name}: expected its local features again, got '{fault}'; mend features.method"
            ) from fault
        if len(rows) != len(image.keypoints):
            raise ValueError(
                f"photo {image.name}: expected its {len(image.keypoints)} keypoints again, got {len(rows)}; "
                "run again, it has changed"
            )
        descriptors.append(rows)
    path = store.descriptors / batch.name
    write_descriptors(path, batch.items, descriptors)
    return {}, [path]
