"""SIFT that a reconstruction kept, used once more: the same as finding it anew, or nearly, while it fits."""

import os
import re

import numpy as np
import pytest
from PIL import Image

from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.local.detected import detect_each
from cnnimretrieval.local.pairing import PairConfig, pair
from cnnimretrieval.search.evidence import Searched, verifiers
from cnnimretrieval.search.spatial import SpatialConfig
from groundwork.executors import SerialExecutor
from groundwork.files import write_json
from sfm.collection import scan
from sfm.descriptors import drop_descriptors
from sfm.detection import FeatureConfig
from sfm.features import extract_features
from sfm.inspection import ScanConfig
from sfm.kept_features import kept_features

CONFIG = FeatureConfig(max_side_px=320, max_features=300)


def picture(seed, size=(300, 220)):
    levels = np.random.default_rng(seed).integers(0, 256, (24, 30, 3), dtype=np.uint8)
    return Image.fromarray(levels).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def reconstructed(tmp_path_factory):
    """The first stages of a reconstruction: a photo as it is searched, one on its side, and a large one."""
    photos, sfm = tmp_path_factory.mktemp("photos"), tmp_path_factory.mktemp("work") / "sfm"
    picture(1).save(photos / "plain.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(2).transpose(Image.Transpose.ROTATE_90).save(photos / "turned.png", exif=exif)
    picture(3, (900, 660)).save(photos / "large.jpg", quality=92)
    collection = scan(photos, sfm, ScanConfig(), SerialExecutor())
    write_json(sfm / "photos.json", {"version": 1, "photos": str(photos)})
    extract_features(collection, sfm, CONFIG, SerialExecutor())
    return photos, sfm


def features(path, kept=None):
    (found,) = detect_each([ImageRequest(path=path)], CONFIG, kept=kept)
    return found.features()


def test_a_photo_that_is_searched_as_it_is_has_the_very_same_features(reconstructed):
    photos, sfm = reconstructed
    kept = kept_features(sfm, "sift")
    assert kept.config == CONFIG
    one, two = features(photos / "plain.png", kept), features(photos / "plain.png")
    assert len(one) == 300
    for part in ("keypoints", "scales", "scores", "descriptors"):
        np.testing.assert_array_equal(getattr(one, part), getattr(two, part))


@pytest.mark.parametrize(("name", "share"), [("turned.png", 0.85), ("large.jpg", 0.9)])
def test_turned_and_shrunk_photos_have_nearly_the_same(reconstructed, name, share):
    # A photo on its side is searched as it is stored; a larger one is shrunk by another filter.
    photos, sfm = reconstructed
    one, two = features(photos / name, kept_features(sfm, "sift")), features(photos / name)
    paired = pair(one, two, PairConfig(geometry="affine", max_error_px=1.0))
    assert paired.num_inliers > share * min(len(one), len(two))
    off = np.abs(paired.verified.matrix - np.eye(3))
    assert (off < (0.01, 0.01, 1.0)).all()


def test_nothing_is_searched_that_was_kept_and_everything_else_is(reconstructed, tmp_path):
    photos, sfm = reconstructed
    kept = kept_features(sfm, "sift")
    path, facts = photos / "plain.png", (photos / "plain.png").stat()
    content = path.read_bytes()
    before = features(path)
    try:
        # Nobody looks into the file: its size and time are what they were.
        path.write_bytes(bytes(len(content)))
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        np.testing.assert_array_equal(features(path, kept).keypoints, before.keypoints)
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))
        assert kept.of(path) is None
        (found,) = detect_each([ImageRequest(path=path)], CONFIG, kept=kept)
        assert found.reason
    finally:
        path.write_bytes(content)
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    elsewhere = tmp_path / "plain.png"
    elsewhere.write_bytes(content)
    assert kept.of(elsewhere) is None
    part = ImageRequest(path=path, box=(0.0, 0.0, 150.0, 220.0))
    (cut,) = detect_each([part], CONFIG, kept=kept)
    assert cut.keypoints[:, 0].max() <= 150.0


def test_re_ranking_counts_the_same_inliers(reconstructed, tmp_path):
    photos, sfm = reconstructed
    query = tmp_path / "query.png"
    picture(1).crop((20, 10, 260, 200)).save(query)
    names = ["large.jpg", "plain.png"]

    def inliers(folder, **settings):
        searched = Searched(
            request_of=lambda row: ImageRequest(path=photos / names[row]),
            stores=list,
            store_of=lambda row: (0, row),
            cache=folder,
        )
        config = SpatialConfig(features="sift", max_features=300, **settings)
        (verifier,) = verifiers(config, None, [ImageRequest(path=query)], searched)
        return verifier.inliers(np.arange(2)).tolist()

    with_kept = inliers(tmp_path / "one", sfm=sfm)
    # What was kept is not found again: the cache has the query alone.
    assert len(list((tmp_path / "one").rglob("*.npz"))) == 1
    assert with_kept == inliers(tmp_path / "two")
    assert with_kept[1] > 100 > 12 > with_kept[0]


def test_folders_that_have_nothing_to_use(reconstructed, tmp_path):
    photos, sfm = reconstructed
    message = f"{tmp_path}: expected the folder of a reconstruction, got none; check the path"
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        kept_features(tmp_path, "sift")
    with pytest.raises(ValueError, match=r"expected features of xfeat, got those of sift; ask for them"):
        kept_features(sfm, "xfeat")
    other = tmp_path / "sfm"
    collection = scan(photos, other, ScanConfig(), SerialExecutor())
    drop_descriptors(extract_features(collection, other, CONFIG, SerialExecutor()))
    message = (
        f"{other}: expected local descriptors, got none that were kept; reconstruct the photos again with "
        "features.keep_descriptors = true"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        kept_features(other, "sift")
    with pytest.raises(ValueError, match=r"sfm: expected it with features=sift or a plug-in's name, got"):
        SpatialConfig(sfm=sfm)
