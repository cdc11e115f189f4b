"""SIFT of photos on demand: where keypoints lie, what is kept, and photos that have or are nothing."""

import logging
import os

import numpy as np
import pytest
from PIL import Image

from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.local.detected import PhotoFeatures, detect_each
from sfm.detection import FeatureConfig

CONFIG = FeatureConfig(max_side_px=128, max_features=60)


@pytest.fixture
def blots(tmp_path):
    """A photo of dark spots on a light ground, 256 x 192 px, and where their centres are."""
    generator = np.random.default_rng(8)
    y, x = np.mgrid[0:192, 0:256] + 0.5
    picture = np.full((192, 256), 220.0)
    centres = np.array([(40.0, 50.0), (200.0, 60.0), (120.0, 140.0), (70.0, 150.0), (190.0, 140.0)])
    for centre, radius in zip(centres, generator.uniform(9, 11, len(centres)), strict=True):
        picture -= 160 * np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / radius**2)
    path = tmp_path / "blots.png"
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path)
    return path, centres


def _features(requests, cache=None, config=CONFIG):
    return [found.features() for found in detect_each(requests, config, cache=cache)]


def test_positions_are_in_pixels_of_the_photo_not_of_what_was_searched(blots):
    path, centres = blots
    (whole,) = _features([ImageRequest(path=path)])
    nearest = np.linalg.norm(whole.keypoints[:, None] - centres, axis=2).min(axis=0)
    assert nearest.max() < 0.5
    (cut,) = _features([ImageRequest(path=path, box=(100.0, 100.0, 256.0, 192.0))])
    inside = centres[(centres[:, 0] > 100) & (centres[:, 1] > 100)] - 100
    assert np.linalg.norm(cut.keypoints[:, None] - inside, axis=2).min(axis=0).max() < 0.5


def test_a_photo_on_its_side_has_the_keypoints_of_the_upright_one(blots, tmp_path):
    path, centres = blots
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = tmp_path / "turned.png"
    Image.open(path).transpose(Image.Transpose.ROTATE_90).save(turned, exif=exif)
    (found,) = _features([ImageRequest(path=turned)])
    assert np.linalg.norm(found.keypoints[:, None] - centres, axis=2).min(axis=0).max() < 0.5


def test_flat_photos_have_no_features_and_broken_ones_a_reason(tmp_path):
    flat, broken = tmp_path / "flat.png", tmp_path / "broken.jpg"
    Image.new("RGB", (90, 70), (120, 120, 120)).save(flat)
    broken.write_bytes(b"\xff\xd8\xff\xe0 no photo")
    found = list(detect_each([ImageRequest(path=path) for path in (flat, broken)], CONFIG))
    assert [len(one.features()) for one in found] == [0, 0]
    assert not found[0].reason
    assert found[1].reason


def test_what_was_found_is_kept_until_photo_or_settings_change(blots, tmp_path, caplog):
    path, _ = blots
    cache, request = tmp_path / "cache", ImageRequest(path=path)
    (first,) = _features([request], cache)
    (file,) = cache.rglob("*.npz")
    os.utime(file, ns=(1, 1))
    (again,) = _features([request], cache)
    assert file.stat().st_mtime_ns == 1
    for part in ("keypoints", "scales", "scores", "descriptors"):
        assert np.array_equal(getattr(first, part), getattr(again, part)), part
    _features([request], cache, CONFIG.model_copy(update={"max_features": 20}))
    assert len(list(cache.rglob("*.npz"))) == 2
    os.utime(path, ns=(5, 5))
    _features([request], cache)
    assert len(list(cache.rglob("*.npz"))) == 3


def test_a_damaged_file_is_found_again(blots, tmp_path, caplog):
    path, _ = blots
    cache, request = tmp_path / "cache", ImageRequest(path=path)
    (first,) = _features([request], cache)
    (file,) = cache.rglob("*.npz")
    file.write_bytes(file.read_bytes()[:200])
    with caplog.at_level(logging.WARNING):
        (again,) = _features([request], cache)
    assert np.array_equal(first.descriptors, again.descriptors)
    assert f"{file}: damaged (BadZipFile); its features are found again" in caplog.text
    assert np.array_equal(_features([request], cache)[0].descriptors, first.descriptors)


def test_missing_photos_are_told_once_and_have_nothing(blots, tmp_path, caplog):
    path, _ = blots
    requests = [ImageRequest(path=path), ImageRequest(path=tmp_path / "gone.jpg")]
    of_rows = PhotoFeatures(requests.__getitem__, CONFIG, cache=None, workers=1)
    with caplog.at_level(logging.WARNING):
        assert [len(one) > 0 for one in of_rows([0, 1])] == [True, False]
        assert [len(one) > 0 for one in of_rows([1])] == [False]
    assert caplog.text.count("gone.jpg: no local features") == 1
