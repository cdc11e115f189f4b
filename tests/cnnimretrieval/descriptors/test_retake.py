import numpy as np
import pytest
from PIL import Image

from cnnimretrieval.descriptors.retake import RetakeConfig, Retaken, covered, warped

STILL = {"tilt": 0, "bend": 0, "blur": 0, "shake": 0, "noise": 0, "shade": 0, "hidden": 0, "jpeg_quality": 95}


@pytest.fixture
def picture() -> Image.Image:
    rng = np.random.default_rng(3)
    blocks = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return blocks.resize((96, 72), Image.Resampling.BICUBIC)


def _distance(a: Image.Image, b: Image.Image) -> float:
    return float(np.abs(np.asarray(a, np.float32) - np.asarray(b, np.float32)).mean())


def test_the_seed_decides_and_the_size_stays(picture):
    first, again, other = (Retaken(seed)(picture) for seed in (1, 1, 2))
    assert first.size == picture.size
    assert first.mode == "RGB"
    assert np.array_equal(np.asarray(first), np.asarray(again))
    assert _distance(first, other) > 5


def test_a_camera_that_is_no_other_changes_nothing_but_compression(picture):
    assert _distance(Retaken(1, RetakeConfig(**STILL))(picture), picture) < 2


@pytest.mark.parametrize(
    "change",
    [
        {"tilt": 0.2},
        {"bend": 0.3},
        {"blur": 0.05},
        {"shake": 0.2},
        {"noise": 0.2},
        {"shade": 0.8},
        {"hidden": 0.5},
    ],
)
def test_each_part_changes_the_picture(picture, change):
    still = Retaken(5, RetakeConfig(**STILL))(picture)
    assert _distance(Retaken(5, RetakeConfig(**STILL | change))(picture), still) > 1


def test_without_tilt_and_bend_every_point_stays(picture):
    levels = np.asarray(picture, np.float32) / 255
    same = warped(levels, np.random.default_rng(0), RetakeConfig(**STILL))
    np.testing.assert_allclose(same, levels, atol=1e-5)


def test_a_bent_lens_leaves_the_middle_where_it_is():
    levels = np.zeros((41, 61, 3), np.float32)
    levels[20, 30] = 1.0
    bent = warped(levels, np.random.default_rng(0), RetakeConfig(**STILL | {"bend": 0.3}))
    np.testing.assert_allclose(bent[20, 30], 1.0, atol=1e-3)


def test_no_more_than_the_share_is_covered():
    levels = np.zeros((60, 80, 3), np.float32)
    for seed in range(20):
        changed = covered(levels, np.random.default_rng(seed), 0.2) != 0.0
        # The soft edge reaches a tenth of the radius further.
        assert changed.any(axis=2).mean() <= 0.2 * 1.1**2 + 0.02


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_pictures_of_any_mode_and_of_one_pixel(mode):
    for size in ((1, 1), (40, 3)):
        assert Retaken(0)(Image.new(mode, size)).size == size
