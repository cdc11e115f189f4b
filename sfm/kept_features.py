"""Local features that a reconstruction kept, photo by photo, for those who match its photos once more."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from groundwork.files import read_table
from groundwork.orientation import upright_xy
from groundwork.photo_source import read_source
from groundwork.records import record_of
from sfm.descriptors import described
from sfm.detection import FeatureConfig
from sfm.features import SHARDS, STAGE
from sfm.featurestore import FeatureStore
from sfm.local_features.interface import Found

_REMEDY = "reconstruct the photos again with features.keep_descriptors = true"
_COLUMNS = ["name", "image_id", "width", "height", "orientation", "size", "modified_ns"]


@dataclass(frozen=True)
class _Photo:
    image_id: int
    width: int
    height: int
    orientation: int
    size: int
    modified_ns: int


@dataclass(frozen=True, kw_only=True, eq=False)
class KeptFeatures:
    """The features that `reconstruct` left in a folder, found by `config`; read when they are asked for."""

    config: FeatureConfig
    _photos: Path
    _store: FeatureStore
    _known: dict[str, _Photo]
    _described: dict[int, set[int]] = field(default_factory=dict)

    def of(self, path: Path) -> Found | None:
        """Keypoints (x, y, scale in px of the upright photo) and descriptors of a photo, the best first.

        None where it is none of the collection's usable photos, has changed since, or its descriptors were
        not kept.
        """
        photo = self._known.get(os.path.relpath(os.path.abspath(path), self._photos))
        if photo is None or not _unchanged(path, photo) or photo.image_id not in self._of_shard(photo):
            return None
        ((_, keypoints),) = self._store.read_keypoints([photo.image_id])
        ((_, descriptors),) = self._store.read_descriptors([photo.image_id])
        xy = upright_xy(keypoints[:, :2].astype(np.float64), photo.width, photo.height, photo.orientation)
        return np.column_stack([xy, keypoints[:, 2]]).astype(np.float32), descriptors

    def _of_shard(self, photo: _Photo) -> set[int]:
        shard = self._store.shard_of(photo.image_id)
        if shard not in self._described:
            self._described[shard] = described(self._store, shard)
        return self._described[shard]


def kept_features(sfm: Path, method: str) -> KeptFeatures:
    """Those of the folder `sfm`, which `reconstruct` wrote.

    FileNotFoundError when it is no such folder; ValueError when they are of another method, or it holds
    nothing that could be used again.
    """
    done, shards = record_of(sfm, STAGE), record_of(sfm / "features", SHARDS)
    if done is None or shards is None:
        raise FileNotFoundError(f"{sfm}: expected the folder of a reconstruction, got none; check the path")
    if not (sfm / "features" / "descriptors").is_dir() or "config" not in done.basis:
        raise ValueError(f"{sfm}: expected local descriptors, got none that were kept; {_REMEDY}")
    config = FeatureConfig.checked(done.basis["config"], str(sfm), "settings of ours", _REMEDY)
    if config.method != method:
        raise ValueError(f"{sfm}: expected features of {method}, got those of {config.method}; ask for them")
    table = read_table(sfm / "collection.parquet", _COLUMNS)
    usable = table[table["image_id"] > 0]
    photos = (usable[column].tolist() for column in _COLUMNS[1:])
    return KeptFeatures(
        config=config,
        _photos=read_source(sfm).folder,
        _store=FeatureStore(folder=sfm / "features", shard_size=int(shards.basis["shard_size"])),
        _known={name: _Photo(*row) for name, *row in zip(usable["name"], *photos, strict=True)},
    )


def _unchanged(path: Path, photo: _Photo) -> bool:
    try:
        now = path.stat()
    except OSError:
        return False
    return (now.st_size, now.st_mtime_ns) == (photo.size, photo.modified_ns)
