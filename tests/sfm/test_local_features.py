from pathlib import Path
from typing import Any

import numpy as np
import pytest

from groundwork.executors import SerialExecutor
from groundwork.files import read_json
from sfm.candidates import CandidateConfig, propose_pairs
from sfm.collection import scan
from sfm.detection import FeatureConfig
from sfm.features import extract_features
from sfm.inspection import ScanConfig
from sfm.local_features.interface import FeatureFault, find, load_method, process_bytes, stated_bytes
from sfm.matching import MatchingConfig, match

_GRAY = np.zeros((30, 40), dtype=np.uint8)

# What SIFT finds, said in another way: positions alone, and floats for descriptors.
_PLUGIN = """
import numpy as np
from sfm.local_features.sift import Sift

class Positions(Sift):
    def detector(self, **settings):
        detect = super().detector(**settings)
        def positions(gray):
            keypoints, descriptors = detect(gray)
            return keypoints[:, :2], descriptors.astype(np.float32) / 512
        return positions

class Broken(Sift):
    def detector(self, **settings):
        return lambda gray: 1 / 0

class Half:
    def detector(self, **settings):
        return None

class Blind:
    def pair_matcher(self):
        return None

class Pairs:
    "The descriptors of SIFT, matched by who sees the photos, too; its weights are a number of matches."

    product_bytes = 3_000

    def __init__(self, weights=None):
        self.most = 10_000 if weights is None else int(weights.read_text())

    detector = Sift.detector

    def pair_matcher(self):
        def match(one, two):
            assert (one.keypoints[:, :2].max(axis=0) > 0.7 * np.array(one.size)).all()
            assert (one.keypoints[:, :2] <= one.size).all()
            assert one.keypoints.shape == (len(one.descriptors), 4)
            return Sift().matches(one.descriptors, two.descriptors, 0.8)[: self.most]
        return match

class Clumsy(Pairs):
    def pair_matcher(self):
        return lambda one, two: 1 / 0
"""


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    path = tmp_path / "my_features.py"
    path.write_text(_PLUGIN)
    return str(path)


def test_unknown_scale_and_orientation_are_filled_in() -> None:
    for columns, told in ((2, [1.0, 0.0]), (3, [7.0, 0.0]), (4, [7.0, 0.5])):
        row = np.array([[3.0, 4.0, 7.0, 0.5]])[:, :columns]
        keypoints, descriptors = find(lambda _, row=row: (row, np.ones((1, 8))), _GRAY)
        assert keypoints.dtype == np.float32
        assert keypoints.tolist() == [[3.0, 4.0, *told]]
        assert descriptors.shape == (1, 8)
    keypoints, _ = find(lambda _: (np.empty((0, 2)), np.empty((0, 8))), _GRAY)
    assert keypoints.shape == (0, 4)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (([[1.0, 2.0]], [[np.nan, 1.0]]), "local features that are not finite numbers"),
        (([[1.0, np.inf]], [[1.0, 1.0]]), "local features that are not finite numbers"),
        (([["a", "b"]], [[1.0, 1.0]]), "local features that are not finite numbers"),
        (([[41.0, 2.0]], [[1.0, 1.0]]), "local features outside of the photo"),
        (([[1.0, -2.0]], [[1.0, 1.0]]), "local features outside of the photo"),
        (([[1.0, 2.0]], [[1.0], [1.0]]), "local features of shapes (1, 2) and (2, 1)"),
        (([1.0, 2.0], [1.0]), "local features of shapes (2,) and (1,)"),
        (([[1.0]], [[1.0]]), "local features of shapes (1, 1) and (1, 1)"),
        (None, "local features raised TypeError"),
    ],
)
def test_what_is_of_no_use_is_told(found: Any, reason: str) -> None:
    with pytest.raises(FeatureFault) as told:
        find(lambda _: found, _GRAY)
    assert str(told.value) == reason


def test_a_method_that_is_none_is_refused_with_the_settings(plugin: str) -> None:
    with pytest.raises(
        ValueError, match=r"features.method: expected sift.* or path/to/file.py:function, got 'surf'"
    ):
        FeatureConfig(method="surf")
    with pytest.raises(ValueError, match=r"expected a function in .*my_features.py, got no 'Absent'"):
        FeatureConfig(method=f"{plugin}:Absent")
    with pytest.raises(
        ValueError, match=r"detector and matches \(or pair_matcher\), got '.*' without 'matches'; see"
    ):
        load_method(f"{plugin}:Half")
    with pytest.raises(ValueError, match=r"\(or pair_matcher\), got '.*' without 'detector'; see"):
        load_method(f"{plugin}:Blind")


def test_a_plug_in_is_matched_and_verified_as_sift_is(two_scenes: Any, tmp_path: Path, plugin: str) -> None:
    verified = {}
    for method in ("sift", f"{plugin}:Positions"):
        out = tmp_path / method.rpartition(":")[2]
        collection = scan(two_scenes["two"].folder, out, ScanConfig(), SerialExecutor())
        features = extract_features(collection, out, FeatureConfig(method=method), SerialExecutor())
        pairs = propose_pairs(collection, features, out, CandidateConfig(), 0, SerialExecutor())
        found = match(pairs, features, out, MatchingConfig(), 0, SerialExecutor()).pairs
        verified[method] = found.set_index(["image_id1", "image_id2"])["inliers"]
    sift, positions = verified.values()
    assert (sift > 50).sum() == 5
    np.testing.assert_allclose(positions, sift, rtol=0.1)


def test_a_method_may_match_pairs_of_photos_as_a_whole(two_scenes: Any, tmp_path: Path, plugin: str) -> None:
    weights = tmp_path / "most.txt"
    weights.write_text("60")
    inliers, facts = {}, {}
    for name, method, given in (
        ("sift", "sift", None),
        ("all", f"{plugin}:Pairs", None),
        ("few", f"{plugin}:Pairs", weights),
        ("clumsy", f"{plugin}:Clumsy", None),
    ):
        out, config = tmp_path / name, FeatureConfig(method=method, weights=given)
        collection = scan(two_scenes["two"].folder, out, ScanConfig(), SerialExecutor())
        features = extract_features(collection, out, config, SerialExecutor())
        pairs = propose_pairs(collection, features, out, CandidateConfig(), 0, SerialExecutor())
        found = match(pairs, features, out, MatchingConfig(), 0, SerialExecutor())
        inliers[name] = found.pairs["inliers"].to_numpy()
        facts[name] = read_json(out / "done" / "matching.json")["facts"]
    np.testing.assert_array_equal(inliers["all"], inliers["sift"])
    assert 40 < inliers["few"].max() <= 60
    assert not inliers["clumsy"].any()
    assert facts["clumsy"]["faults"] == {"matches raised ZeroDivisionError": len(inliers["clumsy"])}
    assert "faults" not in facts["all"]


def test_what_a_method_says_of_its_memory_counts(plugin: str) -> None:
    assert stated_bytes(f"{plugin}:Pairs", "product_bytes", 8) == 3_000
    assert stated_bytes(f"{plugin}:Pairs", "pixel_bytes", 80) == 80
    assert stated_bytes("sift", "product_bytes", 8) == 8
    assert process_bytes("sift") < process_bytes(f"{plugin}:Pairs")


def test_a_plug_in_that_fails_costs_the_photos_and_says_why(
    two_scenes: Any, tmp_path: Path, plugin: str
) -> None:
    collection = scan(two_scenes["two"].folder, tmp_path / "out", ScanConfig(), SerialExecutor())
    config = FeatureConfig(method=f"{plugin}:Broken")
    features = extract_features(collection, tmp_path / "out", config, SerialExecutor())
    assert set(features.failed.values()) == {"local features raised ZeroDivisionError"}
    assert (features.num_keypoints == 0).all()
