from pathlib import Path

import numpy as np
import pytest

from sfm.featurestore import FeatureStore, ImageFeatures, write_descriptors, write_shard


def features_of(image_id: int, count: int) -> ImageFeatures:
    rng = np.random.default_rng(image_id)
    return ImageFeatures(
        image_id=image_id,
        name=f"a b/{image_id}\n.jpg",
        width=600 + image_id,
        height=400,
        focal_px=np.nan if image_id % 2 else 500.0,
        keypoints=rng.uniform(0, 400, (count, 4)).astype(np.float32),
    )


def test_features_come_back_as_written(tmp_path: Path) -> None:
    store = FeatureStore(folder=tmp_path, shard_size=3)
    written = {image_id: features_of(image_id, count) for image_id, count in {1: 4, 2: 0, 3: 2, 5: 7}.items()}
    write_shard(store.folder / store.name(0), [written[1], written[2], written[3]])
    write_shard(store.folder / store.name(1), [written[5]])
    read = list(store.read([5, 3, 2, 1]))
    assert [image.image_id for image in read] == [1, 2, 3, 5]
    for image in read:
        expected = written[image.image_id]
        assert (image.name, image.width, image.height) == (expected.name, expected.width, expected.height)
        np.testing.assert_equal(image.focal_px, expected.focal_px)
        np.testing.assert_array_equal(image.keypoints, expected.keypoints)


def test_an_image_without_features_is_a_key_error(tmp_path: Path) -> None:
    store = FeatureStore(folder=tmp_path, shard_size=3)
    write_shard(store.folder / store.name(0), [features_of(1, 4)])
    write_descriptors(store.descriptors / store.name(0), [1], [np.zeros((4, 128), np.uint8)])
    for read in (store.read, store.read_descriptors):
        with pytest.raises(KeyError):
            list(read([2]))


def test_an_empty_shard(tmp_path: Path) -> None:
    store = FeatureStore(folder=tmp_path, shard_size=3)
    write_shard(tmp_path / "shard-00000", [])
    write_descriptors(store.descriptors / "shard-00000", [], [])
    assert list(store.read([])) == []
    assert list(store.read_descriptors([])) == []


def test_descriptors_come_back_as_written(tmp_path: Path) -> None:
    store = FeatureStore(folder=tmp_path, shard_size=3)
    rng = np.random.default_rng(3)
    written = {
        image_id: rng.integers(0, 256, (count, 128), dtype=np.uint8)
        for image_id, count in {1: 4, 3: 0, 5: 7}.items()
    }
    write_descriptors(store.descriptors / store.name(0), [1, 3], [written[1], written[3]])
    write_descriptors(store.descriptors / store.name(1), [5], [written[5]])
    read = list(store.read_descriptors([5, 3, 1]))
    assert [image_id for image_id, _ in read] == [1, 3, 5]
    for image_id, rows in read:
        np.testing.assert_array_equal(rows, written[image_id])
        assert rows.dtype == np.uint8
