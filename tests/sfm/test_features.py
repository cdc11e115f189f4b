from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from groundwork.executors import LocalExecutor, SerialExecutor
from sfm.collection import Collection, scan
from sfm.detection import FeatureConfig
from sfm.features import Features, _shard_size, extract_features
from sfm.inspection import ScanConfig


def _scan(photos: Path, out: Path) -> Collection:
    return scan(photos, out, ScanConfig(), SerialExecutor())


def _extract(collection: Collection, out: Path, **settings: int) -> Features:
    return extract_features(collection, out, FeatureConfig(**settings), SerialExecutor())


@pytest.mark.parametrize("max_side_px", [1600, 240])
def test_keypoints_are_in_stored_pixels(tmp_path: Path, max_side_px: int) -> None:
    y, x = np.mgrid[0:360, 0:480] + 0.5
    blob = 30 + 200 * np.exp(-((x - 130.5) ** 2 + (y - 70.5) ** 2) / (2 * 8.0**2))
    Image.fromarray(blob.round().astype(np.uint8)).save(tmp_path / "blob.png")
    features = _extract(_scan(tmp_path, tmp_path / "out"), tmp_path / "out", max_side_px=max_side_px)
    (image,) = features.store.read([1])
    assert (image.name, image.width, image.height) == ("blob.png", 480, 360)
    found_x, found_y, scale, _ = image.keypoints[0]
    assert abs(found_x - 130.5) < 0.3
    assert abs(found_y - 70.5) < 0.3
    assert scale == pytest.approx(8.0, rel=0.15)


def test_features_of_rendered_photos(two_scenes: dict[str, Any], tmp_path: Path) -> None:
    collection = _scan(two_scenes["one"].folder, tmp_path)
    features = _extract(collection, tmp_path, max_features=200)
    images = list(features.store.read(range(1, 7)))
    assert sorted(image.name for image in images) == [f"{number}.png" for number in range(6)]
    assert features.num_keypoints.tolist() == [len(image.keypoints) for image in images]
    assert features.failed == {}
    descriptors = dict(features.store.read_descriptors(range(1, 7)))
    for image in images:
        assert descriptors[image.image_id].shape == (len(image.keypoints), 128)
        assert 200 <= len(image.keypoints) < 400
        assert (np.diff(image.keypoints[:, 2]) <= 0).all()
        assert ((image.keypoints[:, :2] > 0) & (image.keypoints[:, :2] < (480, 360))).all()


def test_workers_do_not_change_features(two_scenes: dict[str, Any], tmp_path: Path) -> None:
    collection = _scan(two_scenes["two"].folder, tmp_path)
    alone = _extract(collection, tmp_path / "a")
    with LocalExecutor(2) as executor:
        together = extract_features(collection, tmp_path / "b", FeatureConfig(), executor)
    assert together.key == alone.key
    for name in ("keypoints.npy", "images.npz", "../descriptors/shard-00000/descriptors.npy"):
        content = [(each.store.folder / "shard-00000" / name).read_bytes() for each in (alone, together)]
        assert content[0] == content[1]
    assert _extract(collection, tmp_path / "a", max_features=100).key != alone.key


def test_a_photo_lost_since_the_scan_costs_itself_only(tmp_path: Path) -> None:
    for number, seed in enumerate((5, 6, 7)):
        pixels = np.random.default_rng(seed).integers(0, 256, (30, 40)).repeat(4, 0).repeat(4, 1)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{number}.png")
    collection = _scan(tmp_path, tmp_path / "out")
    (tmp_path / collection.usable["name"][1]).unlink()
    features = _extract(collection, tmp_path / "out")
    assert features.failed == {2: "unreadable since the scan: cannot be read: No such file or directory"}
    assert features.num_keypoints[1] == 0
    assert (features.num_keypoints[[0, 2]] > 30).all()


def _noise(path: Path, count: int) -> None:
    path.mkdir(exist_ok=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (70, 70), dtype=np.uint8)
        Image.fromarray(pixels).save(path / f"{number:04d}.png")


def test_new_photos_fill_the_last_shard_and_open_new_ones(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    _noise(photos, 6)
    first = _extract(_scan(photos, out), out)
    kept = first.store.folder / "shard-00000" / "keypoints.npy"
    changed = kept.stat().st_mtime_ns
    before = [image.keypoints for image in first.store.read(range(1, 7))]
    _noise(photos, 9)
    grown = _extract(_scan(photos, out), out)
    assert sorted(path.name for path in grown.store.folder.glob("shard-*")) == [
        *("shard-00000", "shard-00001", "shard-00002")
    ]
    assert kept.stat().st_mtime_ns == changed
    for old, new in zip(before, grown.store.read(range(1, 7)), strict=True):
        np.testing.assert_array_equal(old, new.keypoints)
    assert (first.settings_key, first.key) != (grown.settings_key, grown.key)
    assert first.settings_key == grown.settings_key
    assert grown.extends(first.basis)
    assert not first.extends(grown.basis)


def test_a_shard_keeps_its_size_until_it_is_far_too_small(tmp_path: Path) -> None:
    sizes = [_shard_size(tmp_path, num_images) for num_images in (100, 2048, 2049, 64 * 256, 100)]
    assert sizes == [4, 4, 33, 33, 33]


def test_keeping_descriptors_changes_no_key() -> None:
    assert FeatureConfig(keep_descriptors=True).key == FeatureConfig().key
    assert FeatureConfig(max_features=1000).key != FeatureConfig().key
