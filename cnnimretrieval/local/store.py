"""Local features on disk, beside the descriptors of `extract`: shards, readable one photo at a time.

DIR/local holds `images.parquet` (for each row of DIR/images.parquet: name, box, reason why there are no
features, shard, first row in it, count), `meta.json`, and a folder for each shard: `keypoints.npy` (x, y,
scale, score), float32, and `descriptors.npy`, float16, which halves the room and turns descriptors by less
than 0.05 degrees. The features of a photo stand by falling score.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from cnnimretrieval.local.features import LocalFeatures
from groundwork.descriptor_folder import BOX
from groundwork.files import atomic_path, open_array, read_table, write_json, write_table
from groundwork.records import mark_done, read_done
from groundwork.settings import Values

FOLDER = "local"
STAGE = "local"
_VERSION = 1
_IMAGES, _META = "images.parquet", "meta.json"
_KEYPOINTS, _DESCRIPTORS = "keypoints.npy", "descriptors.npy"
_REMEDY = "extract the photos again with --local"


class LocalMeta(Values):
    """How the local features of a folder were made.

    `maker` changes with whatever made them, a network say, and `settings` are those of the making.
    """

    version: int = _VERSION
    maker: str
    method: str
    dim: int
    settings: dict[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class LocalStore:
    """The local features in a folder of `extract`, none of them read yet.

    `images` has a row for each row of the folder's descriptors: `name, x1, y1, x2, y2` (the box, NaN for the
    whole photo), `reason, shard, first, count`.
    """

    folder: Path
    images: pd.DataFrame
    meta: LocalMeta

    @property
    def dim(self) -> int:
        """The length of a descriptor."""
        return self.meta.dim

    @property
    def names(self) -> tuple[str, ...]:
        """The photos, a name a row."""
        return tuple(self.images["name"])

    @property
    def bytes_a_photo(self) -> float:
        """Of the features of a photo on average: descriptors in float16, keypoints in float32."""
        return float(self.images["count"].mean()) * (2 * self.dim + 16)

    def features(self, name: str) -> LocalFeatures:
        """The features of a whole photo; ValueError when it is none of the folder's, or they are damaged."""
        row = self._row_of.get(name)
        if row is None:
            raise ValueError(
                f"local features {self.folder}: expected one of its {len(self.images)} photos, got {name!r}; "
                f"{_REMEDY}"
            )
        return self.at(row)

    def at(self, row: int) -> LocalFeatures:
        """The features of a row of `images`; ValueError when they are damaged."""
        shard, first, count = self._places[row].tolist()
        folder = self.folder / shard_name(shard)
        keypoints = _rows(folder / _KEYPOINTS, first, count, 4)
        descriptors = _rows(folder / _DESCRIPTORS, first, count, self.dim)
        try:
            return LocalFeatures(
                keypoints=keypoints[:, :2],
                scales=keypoints[:, 2],
                scores=keypoints[:, 3],
                descriptors=descriptors,
            )
        except ValueError as error:
            name = self.images["name"].iat[row]
            raise ValueError(f"{folder}, photo '{name}': {error}; {_REMEDY}") from error

    def require_maker(self, maker: str) -> None:
        """ValueError unless `maker`, a network's fingerprint say, made these features."""
        if maker != self.meta.maker:
            raise ValueError(
                f"local features {self.folder}: expected those of the network in use ({maker[:12]}), got "
                f"those of {self.meta.maker[:12]}, {self.meta.method}; {_REMEDY} and this network"
            )

    @cached_property
    def _places(self) -> Int[np.ndarray, "n 3"]:
        return self.images[["shard", "first", "count"]].to_numpy(dtype=np.int64)

    @cached_property
    def _row_of(self) -> dict[str, int]:
        names, whole = self.names, np.flatnonzero(self.images["x1"].isna())
        # Of several rows for one photo the first counts.
        return {names[row]: row for row in reversed(whole.tolist())}


def read_local(folder: Path) -> LocalStore:
    """The local features in `folder`, which `extract` wrote with `--local`; only their index is read.

    FileNotFoundError when there are none. ValueError, which names the file, when one is missing, truncated,
    of another version, or not as it was written.
    """
    inside = folder / FOLDER
    record = read_done(inside, STAGE, remedy=_REMEDY)
    if record is None:
        raise FileNotFoundError(
            f"local features: expected a folder that was extracted with --local, got {folder}; {_REMEDY}"
        )
    meta = LocalMeta.load(
        inside / _META, thing="local features", expected="what extract wrote", remedy=_REMEDY
    )
    if meta.version != _VERSION:
        raise ValueError(
            f"local features {inside / _META}: expected version {_VERSION}, got {meta.version}; {_REMEDY}"
        )
    return LocalStore(folder=inside, images=read_table(inside / _IMAGES, remedy=_REMEDY), meta=meta)


def write_shard(
    folder: Path, shard: int, features: Sequence[LocalFeatures], images: pd.DataFrame, dim: int
) -> Path:
    """Write the features of consecutive rows into DIR/local as shard number `shard`, and return its folder.

    `images` are their rows: `name, x1, y1, x2, y2, reason`.
    """
    path = folder / FOLDER / shard_name(shard)
    counts = np.array([len(one) for one in features], np.int64)
    firsts = np.concatenate([[0], np.cumsum(counts)])
    with atomic_path(path) as unfinished:
        unfinished.mkdir()
        keypoints = np.empty((firsts[-1], 4), np.float32)
        descriptors = np.empty((firsts[-1], dim), np.float16)
        for one, first in zip(features, firsts, strict=False):
            part = slice(first, first + len(one))
            keypoints[part] = np.column_stack([one.keypoints, one.scales, one.scores])
            descriptors[part] = one.descriptors
        np.save(unfinished / _KEYPOINTS, keypoints)
        np.save(unfinished / _DESCRIPTORS, descriptors)
        write_table(unfinished / _IMAGES, images.assign(shard=shard, first=firsts[:-1], count=counts))
    return path


def finish(folder: Path, shards: int, meta: LocalMeta, key: str, *, seconds: float = 0.0) -> LocalStore:
    """Write the index of the first `shards` shards, and record that all of DIR/local is done."""
    inside = folder / FOLDER
    paths = [inside / shard_name(shard) for shard in range(shards)]
    tables = [read_table(path / _IMAGES) for path in paths]
    write_table(inside / _IMAGES, pd.concat(tables, ignore_index=True))
    write_json(inside / _META, meta.model_dump(mode="json"))
    mark_done(inside, STAGE, key, seconds=seconds, outputs=[inside / _IMAGES, inside / _META, *paths])
    return read_local(folder)


def write_local(
    folder: Path, features: Iterable[tuple[str, LocalFeatures]], meta: LocalMeta, *, shard_size: int = 256
) -> LocalStore:
    """Write the features of whole photos, name by name, as `extract --local` would."""
    waiting: list[tuple[str, LocalFeatures]] = []
    shards = 0
    for named in features:
        waiting.append(named)
        if len(waiting) == shard_size:
            write_shard(folder, shards, [one for _, one in waiting], _whole(waiting), meta.dim)
            waiting, shards = [], shards + 1
    write_shard(folder, shards, [one for _, one in waiting], _whole(waiting), meta.dim)
    return finish(folder, shards + 1, meta, meta.maker)


def _whole(named: Sequence[tuple[str, LocalFeatures]]) -> pd.DataFrame:
    names = pd.Series([name for name, _ in named], dtype=str)
    nowhere = dict.fromkeys(BOX, pd.Series(np.full(len(named), np.nan)))
    return pd.DataFrame({"name": names, **nowhere, "reason": pd.Series([""] * len(named), dtype=str)})


def shard_name(shard: int) -> str:
    """The folder of a shard in DIR/local."""
    return f"shard-{shard:05d}"


def _rows(path: Path, first: int, count: int, width: int) -> Any:
    """Rows `first` to `first + count` of an array on disk, float32; ValueError when they are not there."""
    rows = open_array(path, _REMEDY)
    if rows.ndim != 2 or rows.shape[1] != width or len(rows) < first + count:
        raise ValueError(
            f"local features {path}: expected at least {first + count} rows of {width}, got {rows.shape}; "
            f"{_REMEDY}"
        )
    return rows[first : first + count].astype(np.float32)
