"""Stage: local descriptors to one global descriptor an image (VLAD), learned on the collection itself.

H. Jegou et al., "Aggregating local image descriptors into compact codes", TPAMI 2012; normalised a word at a
time as in R. Arandjelovic and A. Zisserman, "All about VLAD", CVPR 2013.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int
from pydantic import Field

from sfm.correspondence import unit_descriptors
from sfm.features import Features
from sfm.featurestore import FeatureStore
from sfm.settings import Settings
from sfm.store import atomic_path, key_of, load_done, mark_done
from sfm.tasks import Batch, run_batches, usage

_VERSION = 1
_SAMPLED_IMAGES = 1024
_SAMPLED_DESCRIPTORS = 50_000
_KMEANS_ROUNDS = 20
_BATCH = 128


class VladConfig(Settings):
    """The global descriptor that proposes image pairs."""

    words: int = Field(default=128, ge=1, le=4096, description="visual words of the codebook")
    dim: int = Field(default=128, ge=2, description="length after PCA, less in a small collection")


def describe_images(
    features: Features, out: Path, config: VladConfig, seed: int, executor: Executor
) -> Float32[np.ndarray, "n d"]:
    """Return a memory map of unit rows, row r for image_id r + 1; zero rows for images without keypoints.

    Codebook and PCA are learned on a seeded sample of at most 1,024 of the images. Written to
    `out`/features/vlad.npy.
    """
    started = time.perf_counter()
    key = key_of("vlad", _VERSION, config, seed, features.key)
    path = out / "features" / "vlad.npy"
    if not load_done(out, "vlad", key):
        folder = out / "features" / "vlad"
        model_path = folder / "model.npz"
        if not load_done(folder, "model", key):
            executor.submit(_learn, features, model_path, config, seed).result()
            mark_done(folder, "model", key, outputs=[model_path])
        described = (np.flatnonzero(features.num_keypoints) + 1).tolist()
        batches = [
            Batch(name=f"rows-{start // _BATCH:05d}", key=key_of(key, start), items=tuple(part))
            for start in range(0, len(described), _BATCH)
            if (part := described[start : start + _BATCH])
        ]
        describe = partial(_describe_batch, store=features.store, model_path=model_path, folder=folder)
        results = run_batches(describe, batches, folder, executor, label="vlad")
        with np.load(model_path) as model:
            dim = model["projection"].shape[1]
        with atomic_path(path) as unfinished:
            rows = np.lib.format.open_memmap(
                unfinished, mode="w+", dtype=np.float32, shape=(len(features.num_keypoints), dim)
            )
            for result in results:
                with np.load(result.outputs[0]) as part:
                    rows[part["image_ids"] - 1] = part["rows"]
            rows.flush()
        facts = {"dim": dim, **usage(results)}
        mark_done(out, "vlad", key, seconds=time.perf_counter() - started, facts=facts, outputs=[path])
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


def _learn(features: Features, path: Path, config: VladConfig, seed: int) -> None:
    rng = np.random.default_rng(seed)
    described = np.flatnonzero(features.num_keypoints) + 1
    chosen = np.sort(rng.permutation(described)[:_SAMPLED_IMAGES])
    local = [unit_descriptors(image.descriptors) for image in features.store.read(chosen.tolist())]
    each = max(16, _SAMPLED_DESCRIPTORS // max(1, len(local)))
    sample = [rows[rng.permutation(len(rows))[:each]] for rows in local]
    centres = kmeans(np.concatenate([*sample, np.empty((0, 128), np.float32)]), config.words, rng)
    rows = np.stack([vlad(each, centres) for each in local]) if local else np.zeros((1, centres.size))
    mean, projection = principal_axes(rows, config.dim)
    with atomic_path(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, centres=centres, mean=mean, projection=projection)


def _describe_batch(
    batch: Batch[int], *, store: FeatureStore, model_path: Path, folder: Path
) -> tuple[dict[str, Any], Sequence[Path]]:
    with np.load(model_path) as model:
        centres, mean, projection = model["centres"], model["mean"], model["projection"]
    rows = np.zeros((len(batch.items), projection.shape[1]), dtype=np.float32)
    for position, image in enumerate(store.read(batch.items)):
        row = (vlad(unit_descriptors(image.descriptors), centres) - mean) @ projection
        rows[position] = row / max(float(np.linalg.norm(row)), 1e-12)
    path = folder / f"{batch.name}.npz"
    with atomic_path(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, image_ids=np.array(batch.items, dtype=np.int64), rows=rows)
    return {}, [path]
