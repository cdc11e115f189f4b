"""Stage: keypoints and verified pairs of a COLMAP database, in place of finding and matching our own.

They are written as our own stages write them: graph and mapping cannot tell the difference.
"""

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np
import pandas as pd

from groundwork.batches import BatchResult
from groundwork.files import read_table, write_table
from groundwork.keys import key_of
from groundwork.records import load_done, mark_done, prune
from groundwork.tasks import run_batches, usage
from sfm.collection import Collection
from sfm.colmap.database import ColmapDatabase, database_stamp, read_database
from sfm.colmap.database_tasks import (
    BLOCK,
    SHARD,
    image_batches,
    inliers_to_block,
    keypoints_to_store,
    pair_batches,
)
from sfm.colmap.frames import Frames, Photo, frames_of
from sfm.featurestore import FeatureStore
from sfm.matching import Matches
from sfm.pair_table import ENDS, GEOMETRY_KINDS, MATCHED, pair_table

logger = logging.getLogger(__name__)

_VERSION = 3
_NAMES_TOLD = 3


@dataclass(frozen=True, kw_only=True)
class ImportedMatches:
    """A database in our terms.

    Attributes:
        collection: the photos, with cameras as the database has them, brought to the stored photos.
        store: their keypoints, in its order, in px of the stored photos.
        matches: its pairs; their inliers are rows of these keypoints.
        missing: image_ids of the photos that it does not know.

    """

    collection: Collection
    store: FeatureStore
    matches: Matches
    missing: frozenset[int]


def import_matches(collection: Collection, path: Path, out: Path, executor: Executor) -> ImportedMatches:
    """Bring the keypoints of a COLMAP database to `out`/features and its verified pairs to `out`/matches.

    Image names in it are those of the photos; pairs of other images are left out. ValueError when it cannot
    be read, is damaged, or knows no photo of the collection.
    """
    started, found = time.perf_counter(), read_database(path)
    images, frames = _described(collection, found, path)
    base = key_of("database", _VERSION, database_stamp(path), str(path), collection.key)
    store = FeatureStore(folder=out / "features", shard_size=SHARD)
    shards = image_batches(images, store, base)
    keypoints = run_batches(
        partial(keypoints_to_store, path=path, store=store),
        shards,
        store.folder,
        executor,
        label="keypoints",
    )
    pairs, folder = _pairs(images, found), out / "matches"
    blocks = pair_batches(pairs, base)
    inliers = run_batches(
        partial(inliers_to_block, path=path, folder=folder), blocks, folder, executor, label="matches"
    )
    _require_all(path, [*keypoints, *inliers])
    # By content: a database that was opened in between is not taken for another one.
    key = key_of("database", _VERSION, [result.facts["sha256"] for result in (*keypoints, *inliers)])
    table = folder / "pairs.parquet"
    if not load_done(out, "import", key_of(base, key)):
        write_table(table, pairs.sort_values(list(ENDS), ignore_index=True)[list(MATCHED)])
        prune(store.folder, "shard-*", {result.name for result in keypoints})
        prune(folder, "block-*", {result.name for result in inliers})
        facts = {
            "images": int(images["theirs"].notna().sum()),
            "missing photos": _tell_missing(collection, found, path),
            "frames": frames.tell(),
            "pairs": len(pairs),
            "verified": int((pairs["inliers"] > 0).sum()),
            **usage([*keypoints, *inliers]),
        }
        if frames.tell():
            logger.warning("database %s: is brought to the stored photos: %s", path, frames.tell())
        seconds = time.perf_counter() - started
        mark_done(out, "import", key_of(base, key), seconds=seconds, facts=facts, outputs=[table])
    return ImportedMatches(
        collection=_with_cameras(collection, images),
        store=store,
        matches=Matches(pairs=read_table(table), folder=folder, key=key),
        missing=frozenset(images.loc[images["theirs"].isna(), "image_id"].tolist()),
    )


def _require_all(path: Path, results: Sequence[BatchResult]) -> None:
    for result in results:
        if result.quarantined:
            why = next(iter(result.quarantined.values()))
            raise ValueError(f"database {path}: expected to read it, got '{why}'; check the file")


def _described(collection: Collection, found: ColmapDatabase, path: Path) -> tuple[pd.DataFrame, Frames]:
    """A row for each usable photo: `image_id, name`, and `theirs` (its id there) with its camera, or NaN.

    `width, height` are those of the stored photo, `params` those of a camera for it, and `frame` is what
    brings the image there to the stored photo.
    """
    theirs = found.images.rename(columns={"image_id": "theirs"}).merge(found.cameras, on="camera_id")
    photos = collection.usable[["image_id", "name", "width", "height", "orientation"]]
    images = photos.merge(theirs, how="left", on="name", suffixes=("", "_there"))
    known = images[images["theirs"].notna()]
    if not len(known):
        _refuse(collection, theirs, path)
    try:
        frames = frames_of(
            {
                name: (int(width), int(height))
                for name, width, height in known[["name", "width_there", "height_there"]].itertuples(
                    index=False
                )
            },
            {
                name: Photo(size=(width, height), orientation=orientation)
                for _, name, width, height, orientation in photos.itertuples(index=False)
            },
        )
    except ValueError as error:
        raise ValueError(f"database {path}: {error}") from None
    frame = images["name"].map(frames.of_image)
    params = [
        np.array(frame.params(int(model), np.frombuffer(params).tolist())).tobytes() if there else params
        for there, frame, model, params in zip(
            images["theirs"].notna(), frame, images["model"], images["params"], strict=True
        )
    ]
    return images.assign(frame=frame, params=params), frames


def _refuse(collection: Collection, theirs: pd.DataFrame, path: Path) -> NoReturn:
    if not len(theirs):
        raise ValueError(
            f"database {path}: expected images with cameras, got none; name one whose pairs are verified"
        )
    first, others = theirs["name"].iloc[0], len(theirs) - 1
    raise ValueError(
        f"database {path}: expected image names below {collection.photos}, got '{first}' and {others} more "
        "that are not there; give as PHOTOS the folder that they are relative to"
    )


def _tell_missing(collection: Collection, found: ColmapDatabase, path: Path) -> int:
    """Say which of its images are no photos; return their number."""
    missing = sorted(set(found.images["name"]) - set(collection.usable["name"]))
    if missing:
        logger.warning(
            "database %s: %d images are no usable photos of %s and are left out: %s%s",
            path,
            len(missing),
            collection.photos,
            ", ".join(missing[:_NAMES_TOLD]),
            ", ..." if len(missing) > _NAMES_TOLD else "",
        )
    return len(missing)


def _with_cameras(collection: Collection, images: pd.DataFrame) -> Collection:
    """The collection with the cameras of the database, each camera under a name of its own."""
    table = collection.table.copy()
    known = images[images["theirs"].notna()].set_index("image_id")
    rows = table["image_id"].isin(known.index)
    of_row = known.loc[table.loc[rows, "image_id"]]
    described = of_row[["camera_id", "model", "known"]].astype(int).astype(str).agg(" ".join, axis=1)
    params = of_row["params"].map(bytes.hex)
    table.loc[rows, "camera"] = ("database " + described + " " + params).to_numpy()
    table.loc[rows, "focal_px"] = np.nan  # a parameter already
    return replace(collection, table=table)


def _pairs(images: pd.DataFrame, found: ColmapDatabase) -> pd.DataFrame:
    """Pairs of photos in the order of the database, as `Matches.pairs` and with what reading them takes."""
    known = images[images["theirs"].notna()].set_index("theirs")
    pairs = found.pairs[found.pairs[list(ENDS)].isin(known.index).all(axis=1)]
    ends = np.column_stack([pairs[name].map(known["image_id"]).to_numpy(dtype=np.int64) for name in ENDS])
    counts = [pairs[name].map(known["keypoints"]).to_numpy(dtype=np.int64) for name in ENDS]
    kind, position = pairs["geometry_kind"], np.arange(len(pairs))
    matched = pair_table(
        np.sort(ends, axis=1),
        origin="database",
        geometry_kind=kind.where(kind.isin(list(GEOMETRY_KINDS)), 0).to_numpy(dtype=np.int8),
        inliers=pairs["inliers"].to_numpy(dtype=np.int32),
        block=position // BLOCK,
        row=position % BLOCK,
    )
    return matched.assign(
        pair_id=pairs["pair_id"].to_numpy(dtype=np.int64),
        flipped=ends[:, 0] > ends[:, 1],
        keypoints1=counts[0],
        keypoints2=counts[1],
    )
