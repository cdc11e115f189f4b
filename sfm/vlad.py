"""Stage: local descriptors to one global descriptor an image (VLAD), learned on the collection itself.

H. Jegou et al., "Aggregating local image descriptors into compact codes", TPAMI 2012; normalised a word at a
time as in R. Arandjelovic and A. Zisserman, "All about VLAD", CVPR 2013.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int
from pydantic import Field

from groundwork.arrays import slices
from groundwork.batches import Batch, BatchResult, LazyBatches
from groundwork.files import atomic_path, create_array, discard, release
from groundwork.keys import key_of
from groundwork.records import finish, last_done, load_done, mark_done
from groundwork.settings import Settings
from groundwork.tasks import run_batches, usage
from sfm.correspondence import unit_descriptors
from sfm.descriptors import require_descriptors
from sfm.features import Features
from sfm.featurestore import FeatureStore
from sfm.numbering import rank_by_content

_VERSION = 3
_SAMPLED_IMAGES = 1024
_SAMPLED_DESCRIPTORS = 50_000
_KMEANS_ROUNDS = 20
_BATCH = 128
_COPIED = 65_536


class VladConfig(Settings):
    """The global descriptor that proposes image pairs."""

    words: int = Field(default=128, ge=1, le=4096, description="visual words of the codebook")
    dim: int = Field(default=128, ge=2, description="length after PCA, less in a small collection")


def describe_images(
    features: Features, out: Path, config: VladConfig, seed: int, executor: Executor
) -> Float32[np.ndarray, "n d"]:
    """Return a memory map of unit rows, row r for image_id r + 1; zero rows for images without keypoints.

    Codebook and PCA are learned on a seeded sample of at most 1,024 of the images, by content. Written to
    `out`/features/vlad.npy. When photos are added, the codebook is kept until there are twice as many images
    as it was learned on, and with it the rows of the images that were there.
    """
    started = time.perf_counter()
    key = key_of("vlad", _VERSION, config, seed, features.key)
    path = out / "features" / "vlad.npy"
    if not load_done(out, "vlad", key):
        codebook = _codebook(features, out / "features", config, seed, executor)
        kept = _kept_rows(features, out, codebook)
        described = np.flatnonzero(features.num_keypoints[kept:]) + kept + 1
        results = _describe(features, described, out / "features", codebook, executor)
        with np.load(codebook.path) as model:
            shape = (len(features.num_keypoints), model["projection"].shape[1])
        finish(
            out,
            "vlad",
            key,
            path,
            lambda unfinished: _join(unfinished, shape, path, kept, results),
            seconds=time.perf_counter() - started,
            facts={"dim": shape[1], **usage(results)},
            basis=features.basis | {"codebook": codebook.sha256},
        )
        discard(out / "features" / "vlad")  # all of it is in the one file
    vectors: Float32[np.ndarray, "n d"] = np.load(path, mmap_mode="r")
    return vectors


def kmeans(
    vectors: Float32[np.ndarray, "n d"], words: int, rng: np.random.Generator, rounds: int = _KMEANS_ROUNDS
) -> Float32[np.ndarray, "w d"]:
    """Centres of Lloyd's k-means from random rows; at most n of them. An empty cluster keeps its centre."""
    words = min(words, len(vectors))
    centres = vectors[rng.choice(len(vectors), words, replace=False)].copy()
    for _ in range(rounds):
        nearest = _nearest(vectors, centres)
        counts = np.bincount(nearest, minlength=words)
        sums = _one_hot(nearest, words).T @ vectors
        filled = counts > 0
        centres[filled] = sums[filled] / counts[filled, None]
    return centres


def vlad(
    local: Float32[np.ndarray, "n d"], centres: Float32[np.ndarray, "w d"]
) -> Float32[np.ndarray, " wd"]:
    """Sum of residuals to the nearest centre, each word's sum at unit length, all at unit length.

    Zero for an image without local descriptors.
    """
    words = len(centres)
    if not len(local):
        return np.zeros(centres.size, dtype=np.float32)
    member = _one_hot(_nearest(local, centres), words)
    residuals = member.T @ local - member.sum(axis=0)[:, None] * centres
    residuals /= np.maximum(np.linalg.norm(residuals, axis=1, keepdims=True), 1e-12)
    unit: Float32[np.ndarray, " wd"] = residuals.ravel() / np.maximum(np.linalg.norm(residuals), 1e-12)
    return unit.astype(np.float32)


def principal_axes(
    rows: Float[np.ndarray, "n d"], dim: int
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d k"]]:
    """Mean and first k <= dim principal axes as columns, k limited by the rank of the rows.

    Axes are not scaled to equal variance: in a collection with few more photos than axes that makes all
    photos equally far from each other.
    """
    mean = rows.mean(axis=0)
    centred = (rows - mean).astype(np.float64)
    # Rows are fewer than columns as a rule: axes come from the n x n products, which is far cheaper.
    squared, mixtures = np.linalg.eigh(centred @ centred.T)
    spread = np.sqrt(np.maximum(squared[::-1], 0.0))
    kept = min(dim, max(1, int((spread > 1e-3 * spread[0]).sum())))
    return mean, centred.T @ mixtures[:, ::-1][:, :kept] / np.maximum(spread[:kept], 1e-12)


def _nearest(
    vectors: Float32[np.ndarray, "n d"], centres: Float32[np.ndarray, "w d"]
) -> Int[np.ndarray, " n"]:
    # The vectors' own norm is the same for every centre and left out.
    squared = (centres**2).sum(axis=1) - 2.0 * (vectors @ centres.T)
    nearest: Int[np.ndarray, " n"] = squared.argmin(axis=1)
    return nearest


def _one_hot(labels: Int[np.ndarray, " n"], words: int) -> Float32[np.ndarray, "n w"]:
    return np.asarray(labels[:, None] == np.arange(words), dtype=np.float32)


@dataclass(frozen=True)
class _Codebook:
    path: Path
    sha256: str


def _codebook(
    features: Features, folder: Path, config: VladConfig, seed: int, executor: Executor
) -> _Codebook:
    """The codebook that is there, unless the collection has outgrown it; else a new one."""
    key = key_of("codebook", _VERSION, config, seed, features.settings_key)
    path, num_images = folder / "codebook.npz", len(features.num_keypoints)
    record = load_done(folder, "codebook", key)
    if not record or not features.extends(record.basis) or num_images > 2 * record.basis["images"]:
        by_content = np.argsort(rank_by_content(features.sha256))
        described = by_content[features.num_keypoints[by_content] > 0] + 1
        rng = np.random.default_rng(seed)
        sample = np.sort(rng.permutation(len(described))[:_SAMPLED_IMAGES])
        chosen = described[sample].tolist()
        require_descriptors(features, sorted(chosen), executor)
        executor.submit(_learn, features.store, chosen, path, config, rng).result()
        record = mark_done(folder, "codebook", key, basis=features.basis, outputs=[path])
    return _Codebook(path, record.outputs[path.name].sha256)


def _kept_rows(features: Features, out: Path, codebook: _Codebook) -> int:
    """How many rows there are already, made with this codebook of the first photos of the collection."""
    record = last_done(out, "vlad")
    if record and record.basis["codebook"] == codebook.sha256 and features.extends(record.basis):
        return int(record.basis["images"])
    return 0


def _describe(
    features: Features,
    described: Int[np.ndarray, " k"],
    folder: Path,
    codebook: _Codebook,
    executor: Executor,
) -> list[BatchResult]:
    require_descriptors(features, described.tolist(), executor)
    batches = _Rows(features, described, codebook)
    work = partial(_describe_batch, store=features.store, codebook=codebook.path, folder=folder / "vlad")
    return run_batches(work, batches, folder / "vlad", executor, label="vlad")


class _Rows(LazyBatches[int]):
    """The images to be described, a batch put together when it is asked for: memory holds few at a time."""

    def __init__(self, features: Features, described: Int[np.ndarray, " k"], codebook: _Codebook) -> None:
        self._features, self._described, self._codebook = features, described, codebook
        self._settings_key = features.settings_key

    def __len__(self) -> int:
        return ceil(len(self._described) / _BATCH)

    def batch(self, number: int) -> Batch[int]:
        """The images of one batch."""
        items = self._described[number * _BATCH : (number + 1) * _BATCH]
        hashes = self._features.sha256[items - 1].astype(str).tolist()
        key = key_of(self._codebook.sha256, self._settings_key, items.tolist(), hashes)
        return Batch(name=f"rows-{number:05d}", key=key, items=tuple(items.tolist()))


def _learn(
    store: FeatureStore, image_ids: Sequence[int], path: Path, config: VladConfig, rng: np.random.Generator
) -> None:
    found = dict(store.read_descriptors(image_ids))
    local = [unit_descriptors(found.pop(image_id)) for image_id in image_ids]
    each = max(16, _SAMPLED_DESCRIPTORS // max(1, len(local)))
    sample = [rows[rng.permutation(len(rows))[:each]] for rows in local]
    centres = kmeans(np.concatenate([*sample, np.empty((0, 128), np.float32)]), config.words, rng)
    rows = np.stack([vlad(each, centres) for each in local]) if local else np.zeros((1, centres.size))
    mean, projection = principal_axes(rows, config.dim)
    with atomic_path(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, centres=centres, mean=mean, projection=projection)


def _describe_batch(
    batch: Batch[int], *, store: FeatureStore, codebook: Path, folder: Path
) -> tuple[dict[str, Any], Sequence[Path]]:
    with np.load(codebook) as model:
        centres, mean, projection = model["centres"], model["mean"], model["projection"]
    rows = np.zeros((len(batch.items), projection.shape[1]), dtype=np.float32)
    for position, (_, descriptors) in enumerate(store.read_descriptors(batch.items)):
        row = (vlad(unit_descriptors(descriptors), centres) - mean) @ projection
        rows[position] = row / max(float(np.linalg.norm(row)), 1e-12)
    path = folder / f"{batch.name}.npz"
    with atomic_path(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, image_ids=np.array(batch.items, dtype=np.int64), rows=rows)
    return {}, [path]


def _join(out: Path, shape: tuple[int, int], before: Path, kept: int, results: Sequence[BatchResult]) -> None:
    """Write the first `kept` rows of the file `before`, and those of the results, as one file."""
    rows = create_array(out, shape, np.float32)
    if kept:
        known = np.load(before, mmap_mode="r")
        for part in slices(kept, _COPIED):
            rows[part] = known[part]
            release(known)
            release(rows)
    for result in results:
        for path in result.outputs:
            with np.load(path) as stored:
                rows[stored["image_ids"] - 1] = stored["rows"]
        release(rows)
    rows.flush()
