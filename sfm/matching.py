"""Stage: candidate pairs to verified matches, block by block in child processes."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int, UInt32
from pydantic import Field
from scipy.sparse import coo_array
from scipy.sparse.csgraph import reverse_cuthill_mckee

from sfm.correspondence import mutual_matches, unit_descriptors
from sfm.features import Features
from sfm.featurestore import FeatureStore
from sfm.settings import Settings
from sfm.store import atomic_path, key_of, load_done, mark_done, read_table, write_table
from sfm.tasks import Batch, run_batches, usage

_VERSION = 1
_MAX_BLOCK = 1000


class MatchingConfig(Settings):
    """How local descriptors are matched and verified."""

    max_ratio: float = Field(
        default=0.8, gt=0, le=1, description="nearest to second nearest distance, at most"
    )
    max_error_px: float = Field(default=4.0, gt=0, description="of an inlier of the two-view geometry")
    preview_features: int = Field(
        default=400, ge=0, description="largest keypoints that must match before all are tried; 0: no preview"
    )
    preview_min_matches: int = Field(default=8, ge=1, description="matches among them, at least")
    max_trials: int = Field(default=2000, ge=100, description="of RANSAC; more find no more pairs")
    min_inliers: int = Field(default=15, ge=7, description="a pair with fewer is not verified")


@dataclass(frozen=True, kw_only=True)
class Matches:
    """Outcome of matching all candidate pairs.

    Attributes:
        pairs: one row a candidate pair: `image_id1, image_id2, origin, config` (COLMAP's kind of two-view
            geometry, 1: none), `inliers` (their number), `block, row` (where they are stored).
        folder: holds block-NNNNN.npz with the inliers themselves.
        key: changes with anything that changes a match.

    """

    pairs: pd.DataFrame
    folder: Path
    key: str


@dataclass(frozen=True)
class _Item:
    image_id1: int
    image_id2: int


def match(
    candidates: pd.DataFrame,
    features: Features,
    out: Path,
    config: MatchingConfig,
    seed: int,
    executor: Executor,
) -> Matches:
    """Match and verify every candidate pair; inliers go to `out`/matches, counts to matches/pairs.parquet.

    Most candidates of a mixed collection show different things. They are told by a preview of their largest
    keypoints at a tenth of the cost (C. Wu, "Towards linear-time incremental structure from motion",
    3DV 2013).
    """
    started = time.perf_counter()
    folder = out / "matches"
    listed = candidates[["image_id1", "image_id2"]].to_numpy(dtype=np.int64)
    key = key_of("matching", _VERSION, version("pycolmap"), config, seed, features.key, listed.tolist())
    path = folder / "pairs.parquet"
    if not load_done(out, "matching", key):
        batches = _batches(listed, len(features.num_keypoints), key)
        work = partial(_match_batch, store=features.store, folder=folder, config=config, seed=seed)
        results = run_batches(work, batches, folder, executor, label="matching")
        found: dict[tuple[int, int], tuple[int, int, int, int]] = {}
        for number, (batch, result) in enumerate(zip(batches, results, strict=True)):
            kept = [item for row, item in enumerate(batch.items) if row not in result.quarantined]
            outcome = zip(kept, result.facts["configs"], result.facts["inliers"], strict=True)
            for row, (item, kind, inliers) in enumerate(outcome):
                found[item.image_id1, item.image_id2] = (kind, inliers, number, row)
        rows = [found.get((one, two), (0, 0, -1, -1)) for one, two in listed.tolist()]
        outcomes = pd.DataFrame(rows, columns=["config", "inliers", "block", "row"], dtype=np.int64)
        pairs = pd.concat([candidates.reset_index(drop=True), outcomes], axis=1)
        write_table(path, pairs)
        facts = {
            "pairs": len(pairs),
            "verified": int((pairs["inliers"] > 0).sum()),
            "killed their worker": int((pairs["block"] < 0).sum()),
            **usage(results),
        }
        seconds = time.perf_counter() - started
        mark_done(out, "matching", key, seconds=seconds, facts=facts, outputs=[path])
    return Matches(pairs=read_table(path), folder=folder, key=key)


def read_inliers(
    folder: Path, pairs: pd.DataFrame
) -> Iterator[tuple[int, int, int, UInt32[np.ndarray, "n 2"]]]:
    """Yield (image_id1, image_id2, config, inliers) of rows of `Matches.pairs`, block by block."""
    for block in sorted(set(pairs["block"].tolist())):
        with np.load(folder / f"block-{block:05d}.npz") as stored:
            starts, inliers = stored["starts"], stored["inliers"]
        part = pairs.loc[pairs["block"] == block, ["image_id1", "image_id2", "config", "row"]]
        for one, two, kind, row in part.to_numpy().tolist():
            yield one, two, kind, inliers[starts[row] : starts[row + 1]]


def _batches(listed: Int[np.ndarray, "p 2"], num_images: int, key: str) -> list[Batch[_Item]]:
    """Deal the pairs out so that a block touches few images, each of which has to be read."""
    if not len(listed):
        return []
    links = coo_array((np.ones(len(listed)), (listed[:, 0] - 1, listed[:, 1] - 1)), shape=(num_images,) * 2)
    place_in_order = np.empty(num_images, dtype=np.int64)
    place_in_order[reverse_cuthill_mckee((links + links.T).tocsr(), symmetric_mode=True)] = np.arange(
        num_images
    )
    places = np.sort(place_in_order[listed - 1], axis=1)
    ordered = listed[np.lexsort((places[:, 1], places[:, 0]))]
    size = min(_MAX_BLOCK, max(16, ceil(len(ordered) / 48)))
    batches = []
    for number, start in enumerate(range(0, len(ordered), size)):
        items = tuple(_Item(int(one), int(two)) for one, two in ordered[start : start + size])
        batches.append(Batch(name=f"block-{number:05d}", key=key_of(key, number), items=items))
    return batches


def _match_batch(
    batch: Batch[_Item], *, store: FeatureStore, folder: Path, config: MatchingConfig, seed: int
) -> tuple[dict[str, Any], Sequence[Path]]:
    from sfm import colmap  # in the child only: pycolmap is heavy, and ends the process when it fails

    image_ids = {image_id for item in batch.items for image_id in (item.image_id1, item.image_id2)}
    images = {image.image_id: image for image in store.read(image_ids)}
    descriptors = {image_id: unit_descriptors(image.descriptors) for image_id, image in images.items()}
    configs, inliers = [], []
    for item in batch.items:
        one, two = item.image_id1, item.image_id2
        matches = _putative_matches(descriptors[one], descriptors[two], config)
        geometry = colmap.verify(
            images[one],
            images[two],
            matches,
            max_error_px=config.max_error_px,
            max_trials=config.max_trials,
            min_inliers=config.min_inliers,
            seed=seed,
        )
        configs.append(geometry.config)
        inliers.append(geometry.inliers)
    counts = [len(rows) for rows in inliers]
    path = folder / f"{batch.name}.npz"
    with atomic_path(path) as unfinished, unfinished.open("wb") as file:
        starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        np.savez(file, starts=starts, inliers=np.concatenate([*inliers, np.empty((0, 2), np.uint32)]))
    return {"configs": configs, "inliers": counts}, [path]


def _putative_matches(
    one: Float32[np.ndarray, "n d"], two: Float32[np.ndarray, "m d"], config: MatchingConfig
) -> UInt32[np.ndarray, "k 2"]:
    """Matches of all descriptors; none where the first ones, of the largest keypoints, hardly match."""
    size = config.preview_features
    if 0 < size < max(len(one), len(two)):
        preview = mutual_matches(one[:size], two[:size], config.max_ratio)
        if len(preview) < config.preview_min_matches:
            return preview[:0]
    return mutual_matches(one, two, config.max_ratio)
