"""Stage: features to image pairs worth matching: all, or the nearest in looks and in position, and a list."""

import csv
import time
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Int
from pydantic import Field

from groundwork.descriptor_folder import folder_key, read_descriptor_folder
from groundwork.files import read_table, write_table
from groundwork.keys import key_of
from groundwork.records import load_done, mark_done, record_of
from groundwork.settings import Settings
from groundwork.shards import Selection, blocks
from sfm.collection import Collection
from sfm.features import Features
from sfm.gps import near_pairs
from sfm.neighbours import neighbour_pairs, union
from sfm.spanning_trees import spanning_pairs
from sfm.vlad import VladConfig, describe_images

_VERSION = 2
_BLOCK = 4096


class CandidateConfig(Settings):
    """Which image pairs are tried."""

    exhaustive_up_to: int = Field(default=200, ge=0, description="collections up to this size: every pair")
    neighbours: int = Field(
        default=12, ge=1, description="nearest images tried with each image of a larger collection"
    )
    spanning_trees: int = Field(
        default=0,
        ge=0,
        le=20,
        description="of a larger collection, by similarity; their pairs are tried as well: no group of "
        "photos stays apart because its nearest ones are all its own",
    )
    min_keypoints: int = Field(default=30, ge=1, description="images with fewer are not matched at all")
    pair_list: Path | None = Field(default=None, description="CSV of two names a row, tried as well")
    descriptors: Path | None = Field(
        default=None,
        description="folder with vectors.npy and images.parquet: a network's descriptors, used as well",
    )
    gps_neighbours: int = Field(
        default=8,
        ge=0,
        description="photos taken nearest to each one of a larger collection, where EXIF tells",
    )
    gps_max_distance_m: float = Field(default=100.0, gt=0, description="between such two, at most")
    vlad: VladConfig = VladConfig()


def propose_pairs(
    collection: Collection,
    features: Features,
    out: Path,
    config: CandidateConfig,
    seed: int,
    executor: Executor,
) -> pd.DataFrame:
    """Return the pairs to match, sorted, with the columns `sfm.pair_table.PROPOSED`.

    Origins are `all`, or `vlad`, `trees` and `gps`; and `descriptors` and `list`; several are joined by +.
    Written to `out`/candidates.parquet. ValueError when fewer than two images have keypoints enough, and when
    the list or the descriptors do not fit the collection.
    """
    started = time.perf_counter()
    given = _given(config)
    key = key_of("candidates", _VERSION, config, seed, collection.key, features.key, given)
    path = out / "candidates.parquet"
    if not load_done(out, "candidates", key):
        matchable = features.num_keypoints >= config.min_keypoints
        _require_two(matchable, config)
        sources: dict[str, Int[np.ndarray, "p 2"]] = {}
        if int(matchable.sum()) <= config.exhaustive_up_to:
            sources["all"] = all_pairs(np.flatnonzero(matchable))
        else:
            before = time.perf_counter()
            vectors = describe_images(features, out, config.vlad, seed, executor)
            started += time.perf_counter() - before  # it is a stage of its own
            sources["vlad"] = neighbour_pairs(vectors, matchable, config.neighbours)
            if config.spanning_trees:
                sources["trees"] = spanning_pairs(vectors, matchable, config.spanning_trees)
            if config.gps_neighbours and len(pairs := _taken_nearby(collection, matchable, config)):
                sources["gps"] = pairs
        if config.descriptors is not None:
            vectors, known = read_descriptors(config.descriptors, collection)
            sources["descriptors"] = neighbour_pairs(vectors, known & matchable, config.neighbours)
        if config.pair_list is not None:
            listed = read_pair_list(config.pair_list, collection)
            sources["list"] = listed[matchable[listed].all(axis=1)]
        table = union(sources, len(matchable))
        write_table(path, table)
        facts = {"pairs": len(table)} | {name: len(pairs) for name, pairs in sources.items()}
        mark_done(
            out,
            "candidates",
            key,
            seconds=time.perf_counter() - started,
            facts=facts,
            basis={"given": given, "photos": collection.key},
            outputs=[path],
        )
    return read_table(path)


def _taken_nearby(
    collection: Collection, matchable: Bool[np.ndarray, " n"], config: CandidateConfig
) -> Int[np.ndarray, "p 2"]:
    position = collection.of_usable("latitude", "longitude")
    return near_pairs(
        position["latitude"].to_numpy(dtype=np.float64),
        position["longitude"].to_numpy(dtype=np.float64),
        matchable,
        neighbours=config.gps_neighbours,
        max_distance_m=config.gps_max_distance_m,
    )


def require_given(config: CandidateConfig, collection: Collection, out: Path) -> None:
    """Read what is given besides the photos, for its errors: they come before any work, not after hours.

    Nothing is read where the candidates in `out` were made with the same.
    """
    record = record_of(out, "candidates")
    if record and record.basis == {"given": _given(config), "photos": collection.key}:
        return
    if config.descriptors is not None:
        read_descriptor_folder(config.descriptors)
    if config.pair_list is not None:
        read_pair_list(config.pair_list, collection)


def _given(config: CandidateConfig) -> list[Any]:
    """What changes with the files that are given besides the photos."""
    return [_stamp(config.pair_list), config.descriptors and folder_key(config.descriptors)]


def _mark_between(row: str) -> str:
    fitting = (mark for mark in ",;\t" if len(next(csv.reader([row], delimiter=mark), [])) == 2)
    return next(fitting, ",")


def all_pairs(rows: Int[np.ndarray, " n"]) -> Int[np.ndarray, "p 2"]:
    """Every pair of the given rows, the smaller first."""
    first, second = np.triu_indices(len(rows), 1)
    return np.column_stack([rows[first], rows[second]])


def read_pair_list(path: Path, collection: Collection) -> Int[np.ndarray, "p 2"]:
    """Rows (image_id - 1) of the pairs in a CSV of two names a row, without header; smaller row first.

    Names are parted by comma, semicolon or tab, whichever makes two of the first row.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"pair list: expected a CSV file, got {path}, which is missing; check the path"
        )
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # as programs save it that put a mark first
            mark = _mark_between(file.readline())
            file.seek(0)
            table = pd.read_csv(file, sep=mark, header=None, dtype=str, keep_default_na=False)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ValueError(
            f"pair list {path}: expected two names a row, got no table ({error}); write NAME,NAME"
        ) from error
    if table.shape[1] != 2:
        raise ValueError(
            f"pair list {path}: expected two names a row, got {table.shape[1]} columns; "
            "quote names that hold commas"
        )
    row_of = _row_of_name(collection)
    unknown = sorted({name for name in table.to_numpy().ravel() if name not in row_of})
    if unknown:
        raise ValueError(
            f"pair list {path}: expected names of usable photos, got '{unknown[0]}' and {len(unknown) - 1} "
            "more; write names as in collection.parquet"
        )
    pairs = np.array([[row_of[one], row_of[two]] for one, two in table.to_numpy()], dtype=np.int64)
    pairs = np.sort(pairs.reshape(-1, 2), axis=1)
    return np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)


def read_descriptors(
    folder: Path, collection: Collection
) -> tuple[Float32[np.ndarray, "n d"], Bool[np.ndarray, " n"]]:
    """Descriptors by image_id from a folder of `extract`, and which are there.

    Photos without a row there are simply not known; names that are no usable photo, and boxes, are left out.
    """
    found = read_descriptor_folder(folder)
    row = found.rows_of_photos(collection.of_usable("name")["name"].tolist())
    known = row >= 0
    ordered = np.zeros((len(row), found.vectors.shape[1]), dtype=np.float32)
    rows = np.flatnonzero(known)
    for first, block in blocks(Selection(found.vectors, row[rows]), _BLOCK):
        ordered[rows[first : first + len(block)]] = block
    return ordered, known


def _row_of_name(collection: Collection) -> dict[str, int]:
    return {name: row for row, name in enumerate(collection.of_usable("name")["name"])}


def _require_two(matchable: Bool[np.ndarray, " n"], config: CandidateConfig) -> None:
    if matchable.sum() < 2:
        raise ValueError(
            f"candidates: expected at least two photos with {config.min_keypoints} keypoints, got "
            f"{int(matchable.sum())} of {len(matchable)}; add photos with more texture"
        )


def _stamp(path: Path | None) -> list[str | int] | None:
    if path is None or not path.exists():
        return None
    facts = path.stat()
    return [str(path), facts.st_size, facts.st_mtime_ns]
