"""The tasks of an import of matches: they read keypoints or inliers from a COLMAP database, a part each.

They write what they read as our own stages write what they find.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from groundwork.batches import CHILD_BYTES, Batch, LazyBatches
from groundwork.keys import key_of
from sfm.colmap.database import read_inliers, read_keypoints
from sfm.colmap.frames import Reframe
from sfm.featurestore import FeatureStore, GivenCamera, ImageFeatures, write_shard
from sfm.matching import block_name, write_inliers

# Photos whose keypoints, and pairs whose inliers, lie in one file.
SHARD = 256
BLOCK = 4096

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class DatabaseImage:
    """A photo of the collection; `theirs` is the id of its image in the database.

    Size and camera are those of the stored photo, to which `frame` brings positions in that image.
    """

    image_id: int
    name: str
    theirs: int
    width: int
    height: int
    camera: GivenCamera
    frame: Reframe


@dataclass(frozen=True, slots=True)
class DatabasePair:
    """A pair of the database, with the number of keypoints of either image.

    `flipped` says that its first image, in the order of the database, has the larger image_id here.
    """

    pair_id: int
    flipped: bool
    keypoints1: int
    keypoints2: int


class _Parts(LazyBatches[Item]):
    """Batches that are put together when they are asked for: memory holds few at a time."""

    def __init__(self, make: Callable[[int], Batch[Item]], number: int) -> None:
        self._make, self._number = make, number

    def __len__(self) -> int:
        return self._number

    def batch(self, part: int) -> Batch[Item]:
        """The batch of this number."""
        return self._make(part)


def image_batches(images: pd.DataFrame, store: FeatureStore, base: str) -> LazyBatches[DatabaseImage]:
    """Batches for `keypoints_to_store`: the photos with `theirs`, the id of their image in the database."""
    return _Parts(partial(_shard, images, store, base), ceil(len(images) / SHARD))


def pair_batches(pairs: pd.DataFrame, base: str) -> LazyBatches[DatabasePair]:
    """Batches for `inliers_to_block`: pairs in the order of the database."""
    return _Parts(partial(_block, pairs, base), ceil(len(pairs) / BLOCK))


def _shard(images: pd.DataFrame, store: FeatureStore, base: str, shard: int) -> Batch[DatabaseImage]:
    part = images.iloc[shard * SHARD : (shard + 1) * SHARD]
    part = part[part["theirs"].notna()]
    items = tuple(
        DatabaseImage(
            image_id=row["image_id"],
            name=row["name"],
            theirs=int(row["theirs"]),
            width=int(row["width"]),
            height=int(row["height"]),
            camera=GivenCamera(
                model=int(row["model"]),
                params=tuple(np.frombuffer(row["params"]).tolist()),
                known=bool(row["known"]),
            ),
            frame=row["frame"],
        )
        for row in part.to_dict("records")
    )
    memory_bytes = CHILD_BYTES + 64 * int(part["keypoints"].sum())
    return Batch(name=store.name(shard), key=key_of(base, shard), items=items, memory_bytes=memory_bytes)


def _block(pairs: pd.DataFrame, base: str, block: int) -> Batch[DatabasePair]:
    part = pairs.iloc[block * BLOCK : (block + 1) * BLOCK]
    columns = [part[name].tolist() for name in ("pair_id", "flipped", "keypoints1", "keypoints2")]
    return Batch(
        name=block_name(block),
        key=key_of(base, "block", block),
        items=tuple(DatabasePair(*row) for row in zip(*columns, strict=True)),
        memory_bytes=CHILD_BYTES + 32 * int(part["inliers"].sum()),
    )


def keypoints_to_store(
    batch: Batch[DatabaseImage], *, path: Path, store: FeatureStore
) -> tuple[dict[str, Any], Sequence[Path]]:
    """Write the keypoints of some photos, in px of the stored photos, to `store`; return their hash."""
    images = [
        ImageFeatures(
            image_id=item.image_id,
            name=item.name,
            width=item.width,
            height=item.height,
            focal_px=np.nan,
            keypoints=item.frame.keypoints(keypoints),
            camera=item.camera,
        )
        for item, keypoints in zip(
            batch.items, read_keypoints(path, [item.theirs for item in batch.items]), strict=True
        )
    ]
    write_shard(store.folder / batch.name, images)
    digest = hashlib.sha256()
    for image in images:
        digest.update(key_of(image.image_id, image.name, len(image.keypoints)).encode())
        digest.update(image.keypoints.tobytes())
    return {"sha256": digest.hexdigest()}, [store.folder / batch.name]


def inliers_to_block(
    batch: Batch[DatabasePair], *, path: Path, folder: Path
) -> tuple[dict[str, Any], Sequence[Path]]:
    """Write the inliers of some pairs to `folder`, in our order of the images; return their hash.

    ValueError when there are inliers of keypoints that an image does not have.
    """
    wanted = {item.pair_id: item for item in batch.items}
    found = []
    for pair_id, inliers in read_inliers(path, batch.items[0].pair_id, batch.items[-1].pair_id):
        if item := wanted.get(pair_id):
            there = (item.keypoints1, item.keypoints2)
            if len(inliers) and (inliers.max(axis=0) >= there).any():
                raise ValueError(
                    f"database {path}: expected inliers of pair {pair_id} among {there[0]} and {there[1]} "
                    f"keypoints, got rows up to {inliers.max()}; verify its matches again"
                )
            found.append(inliers[:, ::-1] if item.flipped else inliers)
    target = folder / f"{batch.name}.npz"
    return {"sha256": write_inliers(target, found)}, [target]
