from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from groundwork.executors import LocalExecutor, SerialExecutor
from groundwork.records import mark_done
from sfm.detection import FeatureConfig
from sfm.features import Features
from sfm.featurestore import FeatureStore, ImageFeatures, write_descriptors, write_shard
from sfm.vlad import VladConfig, describe_images, kmeans, principal_axes, vlad


def test_kmeans_finds_separated_groups() -> None:
    rng = np.random.default_rng(0)
    groups = np.array([[0, 0], [10, 0], [0, 10]], dtype=np.float32)
    vectors = np.repeat(groups, 30, axis=0) + rng.normal(0, 0.1, (90, 2)).astype(np.float32)
    centres = kmeans(vectors, 3, np.random.default_rng(5))
    by_corner = np.argsort(centres @ [1, 2])
    np.testing.assert_allclose(centres[by_corner], groups, atol=0.1)
    assert kmeans(vectors[:2], 8, rng).shape == (2, 2)


def test_vlad_by_hand() -> None:
    centres = np.array([[0, 0], [10, 0], [0, 50]], dtype=np.float32)
    local = np.array([[3, 0], [0, 4], [10, -2]], dtype=np.float32)
    # Word 0: (3, 4) to unit length; word 1: (0, -2); word 2 has no member. Two unit words: / sqrt 2.
    expected = np.array([0.6, 0.8, 0, -1, 0, 0]) / np.sqrt(2)
    np.testing.assert_allclose(vlad(local, centres), expected, atol=1e-6)
    np.testing.assert_array_equal(vlad(local[:0], centres), np.zeros(6))


@pytest.mark.parametrize("rows", [12, 40])
def test_principal_axes_agree_with_svd(rows: int) -> None:
    data = np.random.default_rng(1).normal(0, [5, 4, 3, 2, 1, 0.5], (rows, 6)) + 7
    mean, axes = principal_axes(data, 3)
    _, _, expected = np.linalg.svd(data - data.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(mean, data.mean(axis=0))
    np.testing.assert_allclose(np.abs(axes.T @ expected[:3].T), np.eye(3), atol=1e-6)


def test_principal_axes_stop_at_the_rank() -> None:
    data = np.outer(np.arange(5.0), [1.0, 2.0, 3.0])
    assert principal_axes(data, 3)[1].shape == (3, 1)
    mean, axes = principal_axes(np.ones((1, 3)), 3)
    assert np.isfinite((np.ones(3) - mean) @ axes).all()


def _features(folder: Path, num_images: int = 6) -> Features:
    """The first of six images: 1 and 4 hold the same descriptors but for noise, so do 2 and 5; 3 has none."""
    rng = np.random.default_rng(2)
    kinds = [rng.integers(0, 256, (80, 128)) for _ in range(3)]
    kind_of = {1: 0, 2: 1, 4: 0, 5: 1, 6: 2}
    store = FeatureStore(folder=folder / "features", shard_size=4)
    images, descriptors = [], []
    for image_id in range(1, 7):
        count = 80 if image_id in kind_of else 0
        values = kinds[kind_of.get(image_id, 0)][:count] + rng.integers(-9, 10, (count, 128))
        images.append(
            ImageFeatures(
                image_id=image_id,
                name=str(image_id),
                width=640,
                height=480,
                focal_px=np.nan,
                keypoints=np.zeros((count, 4), np.float32),
            )
        )
        descriptors.append(np.clip(values, 0, 255).astype(np.uint8))
    for shard, part in enumerate((slice(0, 4), slice(4, 6))):
        write_shard(store.folder / store.name(shard), images[part])
        apart = store.descriptors / store.name(shard)
        write_descriptors(apart, range(1, 7)[part], descriptors[part])
        mark_done(store.descriptors, store.name(shard), "", outputs=[apart])
    return Features(
        store=store,
        num_keypoints=np.array([80, 80, 0, 80, 80, 80])[:num_images],
        failed={},
        key=f"k{num_images}",
        photos=folder,
        sha256=np.array([f"{image_id:064x}" for image_id in range(1, 7)], dtype="S64")[:num_images],
        config=FeatureConfig(),
    )


def test_images_of_one_kind_are_neighbours(tmp_path: Path) -> None:
    vectors = describe_images(_features(tmp_path), tmp_path, VladConfig(words=4), 0, SerialExecutor())
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 1, 0, 1, 1, 1], atol=1e-5)
    products = vectors @ vectors.T - 2 * np.eye(6)
    assert products.argmax(axis=1)[[0, 1, 3, 4]].tolist() == [3, 4, 0, 1]
    assert isinstance(vectors, np.memmap)


def test_descriptors_depend_on_the_seed_only(tmp_path: Path) -> None:
    config = VladConfig(words=4)
    alone = describe_images(_features(tmp_path / "a"), tmp_path / "a", config, 0, SerialExecutor())
    with LocalExecutor(2) as executor:
        together = describe_images(_features(tmp_path / "b"), tmp_path / "b", config, 0, executor)
    np.testing.assert_array_equal(alone, together)
    other = describe_images(_features(tmp_path / "c"), tmp_path / "c", config, 1, SerialExecutor())
    assert not np.array_equal(alone, other)


class _Noting(SerialExecutor):
    """Notes which images are described; learning is not noted."""

    def __init__(self) -> None:
        self.described: list[int] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.described += getattr(args[-1], "items", ())
        return super().submit(fn, *args, **kwargs)


def test_growth_keeps_codebook_and_rows_until_the_collection_has_doubled(tmp_path: Path) -> None:
    config, codebook = VladConfig(words=4), tmp_path / "features" / "codebook.npz"
    first = np.array(describe_images(_features(tmp_path, 4), tmp_path, config, 0, SerialExecutor()))
    learned = codebook.read_bytes()
    executor = _Noting()
    grown = describe_images(_features(tmp_path, 6), tmp_path, config, 0, executor)
    assert executor.described == [5, 6]
    assert codebook.read_bytes() == learned
    np.testing.assert_array_equal(grown[:4], first)
    # Image 5 shows what image 2 shows: old and new rows can be compared.
    assert (grown[:5] @ grown[4]).argsort()[::-1][1] == 1
    doubled = tmp_path / "doubled"
    describe_images(_features(doubled, 2), doubled, config, 0, SerialExecutor())
    describe_images(_features(doubled, 5), doubled, config, 0, SerialExecutor())
    fresh = describe_images(_features(tmp_path / "fresh", 5), tmp_path / "fresh", config, 0, SerialExecutor())
    np.testing.assert_array_equal(np.load(doubled / "features" / "vlad.npy"), fresh)


def test_rows_of_other_photos_are_not_kept(tmp_path: Path) -> None:
    config, features = VladConfig(words=4), _features(tmp_path, 4)
    describe_images(features, tmp_path, config, 0, SerialExecutor())
    executor = _Noting()
    describe_images(features, tmp_path, config, 0, executor)
    assert executor.described == []
    describe_images(replace(features, key="o", sha256=features.sha256[::-1]), tmp_path, config, 0, executor)
    assert executor.described == [1, 2, 4]
