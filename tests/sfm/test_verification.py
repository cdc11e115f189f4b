from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from sfm.colmap import calls as colmap
from sfm.featurestore import ImageFeatures
from sfm.verification import verify_behind_print

SIZE = (1000, 700)


def _seen(centre: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Where a camera that looks along z sees points, in px."""
    rays = points - centre
    return 900 * rays[:, :2] / rays[:, 2:] + np.array(SIZE) / 2


def _photo(image_id: int, points: np.ndarray) -> ImageFeatures:
    keypoints = np.column_stack([points, np.ones((len(points), 2))]).astype(np.float32)
    return ImageFeatures(
        image_id=image_id, name=f"{image_id}.jpg", width=1000, height=700, focal_px=900.0, keypoints=keypoints
    )


@pytest.fixture
def verify() -> Callable:
    return partial(colmap.verify, max_error_px=4.0, max_trials=2000, min_inliers=15, seed=0)


def _pair(same_place: bool, letters: int) -> tuple[ImageFeatures, ImageFeatures, np.ndarray]:
    """Keypoints 0 to 39 in the scene, the others letters of a bar, which change places."""
    rng = np.random.default_rng(1)
    scene = rng.uniform((-2, -1.2, 5), (2, 1, 9), (40, 3))
    other = scene if same_place else rng.permutation(scene)
    across = 680 + rng.uniform(-8, 8, letters)
    bars = [np.column_stack([rng.uniform(10, 990, letters), across]) for _ in range(2)]
    bars[1][::2] = bars[0][::2]
    one = np.concatenate([_seen(np.zeros(3), scene), bars[0]])
    two = np.concatenate([_seen(np.array([0.5, 0.3, 0.1]), other), bars[1]])
    matches = np.column_stack([np.arange(40 + letters)] * 2).astype(np.uint32)
    return _photo(1, one), _photo(2, two), matches


def test_the_place_behind_a_bar_is_found(verify: Callable) -> None:
    one, two, matches = _pair(same_place=True, letters=70)
    assert (verify(one, two, matches).inliers[:, 0] >= 40).mean() > 0.5
    found = verify_behind_print(partial(verify, one, two), one, two, matches)
    assert set(range(40)) <= set(found.inliers[:, 0].tolist())
    assert found.geometry_kind in (2, 3)


def test_a_bar_with_nothing_behind_it_is_told_as_it_is(verify: Callable) -> None:
    one, two, matches = _pair(same_place=False, letters=70)
    plain = verify(one, two, matches)
    found = verify_behind_print(partial(verify, one, two), one, two, matches)
    assert len(plain.inliers) > 60
    assert found.geometry_kind == plain.geometry_kind
    assert found.inliers.tolist() == plain.inliers.tolist()


@pytest.mark.parametrize("same_place", [True, False])
def test_without_print_nothing_changes(verify: Callable, same_place: bool) -> None:
    one, two, matches = _pair(same_place, letters=0)
    plain = verify(one, two, matches)
    found = verify_behind_print(partial(verify, one, two), one, two, matches)
    assert found.geometry_kind == plain.geometry_kind
    assert found.inliers.tolist() == plain.inliers.tolist()
