from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sfm.collection import ScanConfig, scan
from sfm.features import FeatureConfig, Features, extract_features
from sfm.matching import Matches, MatchingConfig, match, read_inliers
from sfm.tasks import LocalExecutor, SerialExecutor


@pytest.fixture(scope="module")
def features(two_scenes: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Features:
    out = tmp_path_factory.mktemp("features")
    collection = scan(two_scenes["one"].folder.parent, out, ScanConfig(), SerialExecutor())
    return extract_features(collection, out, FeatureConfig(), SerialExecutor())


def _candidates(*pairs: tuple[int, int]) -> pd.DataFrame:
    return pd.DataFrame(pairs, columns=["image_id1", "image_id2"]).assign(origin="list")


ALL = [(one, two) for one in range(1, 11) for two in range(one + 1, 11)]


def _match(features: Features, out: Path, **settings: int) -> Matches:
    return match(_candidates(*ALL), features, out, MatchingConfig(**settings), 0, SerialExecutor())


def test_neighbouring_photos_match_and_places_do_not(features: Features, tmp_path: Path) -> None:
    pairs = _match(features, tmp_path).pairs
    assert pairs[["image_id1", "image_id2"]].to_numpy().tolist() == [list(pair) for pair in ALL]
    inliers = pairs.set_index(["image_id1", "image_id2"])["inliers"]
    # Images 1..6 show one place in order of the camera's path, 7..10 the other.
    for one, two in ALL:
        if (one <= 6) != (two <= 6):
            assert inliers[one, two] == 0
        elif two == one + 1:
            assert inliers[one, two] >= 30
    assert (pairs["config"] != 1).eq(pairs["inliers"] > 0).all()


def test_inliers_are_read_back_for_any_choice_of_pairs(features: Features, tmp_path: Path) -> None:
    matches = _match(features, tmp_path)
    chosen = matches.pairs[matches.pairs["inliers"] > 0].sample(frac=0.5, random_state=0)
    count = chosen.set_index(["image_id1", "image_id2"])["inliers"]
    images = {image.image_id: image for image in features.store.read(range(1, 11))}
    read = list(read_inliers(matches.folder, chosen))
    assert {(one, two) for one, two, _, _ in read} == set(count.index)
    for one, two, config, inliers in read:
        assert config > 1
        assert len(inliers) == count[one, two]
        assert (inliers.max(axis=0) < (len(images[one].keypoints), len(images[two].keypoints))).all()


def test_workers_and_seed(features: Features, tmp_path: Path) -> None:
    alone = _match(features, tmp_path / "a")
    with LocalExecutor(2) as executor:
        together = match(_candidates(*ALL), features, tmp_path / "b", MatchingConfig(), 0, executor)
    pd.testing.assert_frame_equal(alone.pairs, together.pairs)
    for block in sorted(alone.folder.glob("block-*.npz")):
        with np.load(block) as one, np.load(together.folder / block.name) as two:
            np.testing.assert_array_equal(one["inliers"], two["inliers"])
    other = match(_candidates(*ALL), features, tmp_path / "c", MatchingConfig(), 1, SerialExecutor())
    assert other.key != alone.key


def test_the_preview_saves_work_and_loses_little(features: Features, tmp_path: Path) -> None:
    with_preview = _match(features, tmp_path / "a").pairs["inliers"]
    without = _match(features, tmp_path / "b", preview_features=0).pairs["inliers"]
    strict = _match(features, tmp_path / "c", preview_min_matches=1000).pairs["inliers"]
    assert ((with_preview > 0) == (without > 0)).mean() > 0.95
    assert (strict == 0).all()


def test_no_pair_at_all(features: Features, tmp_path: Path) -> None:
    matches = match(_candidates(), features, tmp_path, MatchingConfig(), 0, SerialExecutor())
    assert len(matches.pairs) == 0
    assert list(matches.pairs) == ["image_id1", "image_id2", "origin", "config", "inliers", "block", "row"]
