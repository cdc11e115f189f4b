"""Stage: candidate pairs to verified matches, block by block in child processes."""

import hashlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Shaped, UInt32
from pydantic import Field

from groundwork.arrays import starts_of
from groundwork.batches import Batch, BatchResult, LazyBatches
from groundwork.files import atomic_path, read_table
from groundwork.keys import key_of, key_of_table
from groundwork.records import finish, last_done, load_done, prune
from groundwork.settings import Settings
from groundwork.tasks import finished_batches, usage
from sfm.correspondence import unit_descriptors
from sfm.descriptors import require_descriptors
from sfm.detection import FeatureConfig
from sfm.features import Features
from sfm.featurestore import FeatureStore, ImageFeatures
from sfm.local_features.interface import (
    Described,
    FeatureFault,
    PairMatcher,
    load_method,
    matcher_of,
    process_bytes,
    putative_matches,
    stated_bytes,
)
from sfm.matchplan import MatchPlan, plan_matches
from sfm.pair_table import ENDS, PLANNED, pair_table, typed
from sfm.verification import verify_behind_print

_VERSION = 5
# A keypoint with its descriptor, as stored and as a unit row; a product of two descriptors, twice.
_KEYPOINT_BYTES = 700
_PRODUCT_BYTES = 8
_Pair = tuple[int, int]


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
        pairs: sorted, with the columns `sfm.pair_table.MATCHED`. Pairs that were matched for this collection
            before are here even when they are no candidates any more: a verified pair is evidence, whoever
            proposed it.
        folder: holds block-NNNNN.npz with the inliers themselves.
        key: changes with what decides the outcome of a pair apart from its photos: settings, seed, versions.

    """

    pairs: pd.DataFrame
    folder: Path
    key: str


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
    3DV 2013). Where print that both photos carry makes up the geometry of a pair, what lies behind it is
    verified without it (`sfm.verification`).

    A pair that was matched with the same settings is not matched again as long as the photos that were there
    then are the first ones of the collection: blocks of pairs stay, new pairs go to new blocks. The outcome
    of a pair depends on its two photos, settings and seed alone: whatever their numbers, the photo whose
    digest is the smaller is the first one.
    """
    started, folder = time.perf_counter(), out / "matches"
    base = key_of("matching", _VERSION, version("pycolmap"), config, seed, features.settings_key)
    key = key_of(base, features.key, key_of_table(candidates))
    path = folder / "pairs.parquet"
    plan = plan_matches(candidates, _matched_before(out, path, base, features), len(features.num_keypoints))
    blocks = _Blocks(plan, base, features)
    todo = [number for number, batch in enumerate(blocks) if not load_done(folder, batch.name, batch.key)]
    if todo or not load_done(out, "matching", key):
        require_descriptors(features, blocks.images(todo), executor)
        work = partial(
            _match_batch,
            store=features.store,
            folder=folder,
            features=features.config,
            config=config,
            seed=seed,
        )
        pairs, taken, faults = _outcomes(
            plan, finished_batches(work, blocks, folder, executor, label="matching")
        )
        facts = {
            "pairs": len(pairs),
            "verified": int((pairs["inliers"] > 0).sum()),
            "killed their worker": int((pairs["row"] < 0).sum()),
            **usage(taken),
        }
        if faults:
            facts["faults"] = dict(sorted(faults.items()))
        seconds, basis = time.perf_counter() - started, features.basis | {"base": base}
        write = partial(pairs.to_parquet, index=False)
        finish(out, "matching", key, path, write, seconds=seconds, facts=facts, basis=basis)
        prune(folder, "block-*", {result.name for result in taken})
        del pairs, write
    del plan, blocks
    return Matches(pairs=read_table(path), folder=folder, key=base)


def read_inliers(
    folder: Path, pairs: pd.DataFrame
) -> Iterator[tuple[int, int, int, UInt32[np.ndarray, "n 2"]]]:
    """Yield (image_id1, image_id2, geometry_kind, inliers) of rows of `Matches.pairs`, block by block."""
    for block in np.unique(pairs["block"].to_numpy()).tolist():
        part = pairs[pairs["block"] == block]
        with np.load(block_path(folder, block)) as stored:
            starts, inliers = stored["starts"], stored["inliers"]
        for one, two, kind, row in part[[*ENDS, "geometry_kind", "row"]].to_numpy().tolist():
            yield one, two, kind, inliers[starts[row] : starts[row + 1]]


def block_name(block: int) -> str:
    """What a block is called: its record, and its file."""
    return f"block-{block:05d}"


def block_path(folder: Path, block: int) -> Path:
    """The file of the inliers of a block."""
    return folder / f"{block_name(block)}.npz"


def write_inliers(path: Path, inliers: Sequence[UInt32[np.ndarray, "n 2"]]) -> str:
    """Write the inliers of the pairs of a block, in order, end to end with an index; return their SHA-256."""
    starts = starts_of(inliers)
    rows = np.concatenate([*inliers, np.empty((0, 2), np.uint32)])
    with atomic_path(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, starts=starts, inliers=rows)
    return hashlib.sha256(starts.tobytes() + rows.tobytes()).hexdigest()


def _matched_before(out: Path, path: Path, base: str, features: Features) -> pd.DataFrame:
    """The pairs of the last finished run, where their outcome still holds."""
    record = last_done(out, "matching")
    if record and record.basis["base"] == base and features.extends(record.basis):
        before = typed(read_table(path, columns=list(PLANNED)))
        if len(before):  # without a row a file does not say of what kind origins are
            return before
    return pair_table(np.empty((0, 2), dtype=np.int32), origin="", block=-1)


class _Blocks(LazyBatches[_Pair]):
    """The batches of a plan, each put together when it is asked for: memory holds few at a time."""

    def __init__(self, plan: MatchPlan, base: str, features: Features) -> None:
        self._plan, self._base, self._features = plan, base, features
        self._product_bytes = stated_bytes(features.config.method, "product_bytes", _PRODUCT_BYTES)

    def __len__(self) -> int:
        return self._plan.num_blocks

    def batch(self, block: int) -> Batch[_Pair]:
        """The pairs of one block, the photo with the smaller digest first in each."""
        pairs = self._plan.image_ids[self._plan.rows(block)].astype(np.int64)
        digest = hashlib.sha256(pairs.tobytes() + self._features.sha256[pairs - 1].tobytes()).hexdigest()
        flipped = self._features.sha256[pairs[:, 0] - 1] > self._features.sha256[pairs[:, 1] - 1]
        items = tuple(
            (two, one) if flip else (one, two)
            for (one, two), flip in zip(pairs.tolist(), flipped, strict=True)
        )
        counts = self._features.num_keypoints[np.unique(pairs) - 1]
        memory_bytes = (
            process_bytes(self._features.config.method)
            + _KEYPOINT_BYTES * int(counts.sum())
            + self._product_bytes * int(counts.max()) ** 2
        )
        key = key_of(self._base, digest)
        return Batch(name=block_name(block), key=key, items=items, memory_bytes=memory_bytes)

    def images(self, blocks: Sequence[int]) -> list[int]:
        """The images of some blocks, rising."""
        needed = np.zeros(len(self._features.num_keypoints), dtype=np.bool_)
        for block in blocks:
            needed[self._plan.image_ids[self._plan.rows(block)] - 1] = True
        image_ids: list[int] = (np.flatnonzero(needed) + 1).tolist()
        return image_ids


def _outcomes(
    plan: MatchPlan, finished: Iterable[tuple[int, BatchResult]]
) -> tuple[pd.DataFrame, list[BatchResult], Counter[str]]:
    """The planned pairs as `Matches.pairs`: without geometry and inliers where they killed their worker.

    And the results by block, without the facts about each pair: as Python numbers they take several times
    the memory that they take in columns. And how often the feature gave nothing of use, by reason.
    """
    kind = np.zeros(len(plan.block), dtype=np.int8)
    inliers = np.zeros(len(plan.block), dtype=np.int32)
    row = np.full(len(plan.block), -1, dtype=np.int32)
    taken = {}
    faults: Counter[str] = Counter()
    for block, result in finished:
        matched = np.delete(plan.rows(block), list(result.quarantined))
        kind[matched], inliers[matched] = result.facts["geometry_kinds"], result.facts["inliers"]
        row[matched] = np.arange(len(matched))
        faults.update(result.facts.get("faults", {}))
        taken[block] = replace(result, facts={})
    pairs = pair_table(
        plan.image_ids, origin=plan.origin, geometry_kind=kind, inliers=inliers, block=plan.block, row=row
    )
    return pairs, [taken[block] for block in range(plan.num_blocks)], faults


def _match_batch(
    batch: Batch[_Pair],
    *,
    store: FeatureStore,
    folder: Path,
    features: FeatureConfig,
    config: MatchingConfig,
    seed: int,
) -> tuple[dict[str, Any], Sequence[Path]]:
    # In the child only: pycolmap is heavy, and ends the process when it fails.
    from sfm.colmap import calls as colmap

    image_ids = {image_id for pair in batch.items for image_id in pair}
    images = {image.image_id: image for image in store.read(image_ids)}
    described = {
        image_id: _described(images[image_id], rows) for image_id, rows in store.read_descriptors(image_ids)
    }
    geometry_kinds, inliers = [], []
    matcher = matcher_of(load_method(features.method, features.weights), config.max_ratio)
    faults: Counter[str] = Counter()
    for one, two in batch.items:
        try:
            matches = preview_then_all(matcher, described[one], described[two], config)
        except FeatureFault as fault:
            faults[str(fault)] += 1
            matches = np.empty((0, 2), np.uint32)
        verify = partial(
            colmap.verify,
            images[one],
            images[two],
            max_error_px=config.max_error_px,
            max_trials=config.max_trials,
            min_inliers=config.min_inliers,
            seed=seed,
        )
        geometry = verify_behind_print(verify, images[one], images[two], matches)
        geometry_kinds.append(geometry.geometry_kind)
        # They are kept by the pair's numbers.
        inliers.append(geometry.inliers if one < two else geometry.inliers[:, ::-1])
    path = folder / f"{batch.name}.npz"
    write_inliers(path, inliers)
    facts = {"geometry_kinds": geometry_kinds, "inliers": [len(rows) for rows in inliers]}
    return facts | ({"faults": dict(faults)} if faults else {}), [path]


def _described(image: ImageFeatures, descriptors: Shaped[np.ndarray, "n d"]) -> Described:
    return Described(
        keypoints=image.keypoints,
        descriptors=unit_descriptors(descriptors),
        size=(image.width, image.height),
    )


def preview_then_all(
    matcher: PairMatcher, one: Described, two: Described, config: MatchingConfig
) -> UInt32[np.ndarray, "k 2"]:
    """Matches of all keypoints; none where the first ones, the best, hardly match."""
    size = config.preview_features
    if 0 < size < max(len(one), len(two)):
        preview = putative_matches(matcher, one.best(size), two.best(size))
        if len(preview) < config.preview_min_matches:
            return preview[:0]
    return putative_matches(matcher, one, two)
