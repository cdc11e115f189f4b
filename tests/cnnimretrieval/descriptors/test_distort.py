import numpy as np
import pytest
from PIL import Image

from cnnimretrieval.descriptors.distort import RelightConfig, Relit, recompress, relight

STILL = RelightConfig(exposure=1, gamma=1, contrast=1, saturation=1, tint=1)


@pytest.fixture
def picture():
    levels = np.random.default_rng(4).integers(20, 230, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(levels).resize((72, 48), Image.Resampling.BICUBIC)


def test_the_same_seed_gives_the_same_picture_and_another_a_different_one(picture):
    first, again, other = (np.asarray(Relit(seed)(picture)) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first.astype(int) - other).mean() > 2
    assert first.shape == (48, 72, 3)


def test_factors_of_one_change_nothing():
    levels = np.random.default_rng(0).random((5, 4, 3), dtype=np.float32)
    lit = relight(levels, np.random.default_rng(1), STILL)
    np.testing.assert_allclose(lit, levels, atol=1e-6)


@pytest.mark.parametrize("name", ["exposure", "gamma", "contrast", "saturation", "tint"])
def test_each_factor_has_its_own_effect(name):
    levels = np.random.default_rng(0).uniform(0.3, 0.6, (5, 4, 3)).astype(np.float32)
    config = STILL.model_copy(update={name: 1.3})
    lit = relight(levels, np.random.default_rng(3), config)
    ratio, grey, lit_grey = lit / levels, levels.mean(axis=2), lit.mean(axis=2)
    assert not np.allclose(lit, levels, atol=1e-3)
    if name == "exposure":
        np.testing.assert_allclose(ratio, ratio[0, 0, 0], rtol=1e-5)
    elif name == "gamma":
        exponent = np.log(lit) / np.log(levels)
        np.testing.assert_allclose(exponent, exponent[0, 0, 0], rtol=1e-4)
    elif name == "contrast":
        np.testing.assert_allclose(lit.mean(), levels.mean(), rtol=1e-5)
        assert abs(lit.std() / levels.std() - 1) > 0.01
    elif name == "saturation":
        np.testing.assert_allclose(lit_grey, grey, rtol=1e-5)
    else:
        np.testing.assert_allclose(ratio, np.broadcast_to(ratio[0, 0], ratio.shape), rtol=1e-5)
        assert np.ptp(ratio[0, 0]) > 0.01


def test_levels_stay_in_range():
    levels = np.random.default_rng(0).random((8, 8, 3), dtype=np.float32)
    for seed in range(20):
        lit = relight(levels, np.random.default_rng(seed), RelightConfig(exposure=4, contrast=3, tint=2))
        assert lit.min() >= 0
        assert lit.max() <= 1
        assert lit.dtype == np.float32


def test_lower_quality_loses_more(picture):
    def loss(quality: int) -> float:
        return np.abs(np.asarray(recompress(picture, quality), int) - np.asarray(picture)).mean()

    assert 0 < loss(90) < loss(20)


def test_qualities_in_the_wrong_order_are_refused():
    with pytest.raises(
        ValueError, match="expected min_jpeg_quality <= max_jpeg_quality, got 80 and 60; swap"
    ):
        RelightConfig(min_jpeg_quality=80, max_jpeg_quality=60)
