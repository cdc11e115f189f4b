from pathlib import Path

import numpy as np
import pytest
from jaxtyping import Shaped
from PIL import Image, ImageCms

from groundwork.levels import scaled, to_gray, to_rgb
from groundwork.photos import load_gray, load_rgb

RNG = np.random.default_rng(3)
# No level of it is rare, and both ends of the range are there.
EIGHT = RNG.integers(0, 256, (80, 100), dtype=np.uint8)


def _largest_difference(levels: Shaped[np.ndarray, "..."], expected: Shaped[np.ndarray, "..."]) -> int:
    return int(np.abs(levels.astype(int) - expected.astype(int)).max())


@pytest.mark.parametrize(
    ("values", "tolerance"),
    [
        (EIGHT.astype(np.int32), 0),
        (EIGHT.astype(np.uint16), 0),
        (EIGHT.astype(np.uint16) * 4, 1),
        (EIGHT.astype(np.uint16) * 16, 1),
        (EIGHT.astype(">u2") * 64, 1),
        (EIGHT.astype(np.uint16) * 257, 0),
        (EIGHT.astype(np.int32) * 257, 0),
        (EIGHT.astype(np.int32) * 65_793, 2),
        (EIGHT.astype(np.int32) * 257 - 32_768, 2),
        (EIGHT.astype(np.uint32) * 16_843_009, 2),
        (EIGHT.astype(np.float32) / 255, 0),
        (EIGHT.astype(np.float32), 2),
        (EIGHT.astype(np.float32) * 257, 2),
        (EIGHT.astype(np.float32) * 1e-6, 2),
        (EIGHT.astype(np.float32) * 1e30, 2),
        (EIGHT.astype(np.float32) / 127.5 - 1, 2),
        (EIGHT.astype(np.float32) + 1000, 2),
    ],
)
def test_a_picture_looks_the_same_at_any_depth(values: Shaped[np.ndarray, "h w"], tolerance: int) -> None:
    assert _largest_difference(scaled(values), EIGHT) <= tolerance


def test_every_level_of_16_bits_is_divided_by_257() -> None:
    levels = np.arange(65_536, dtype=np.uint16).reshape(256, 256)
    np.testing.assert_array_equal(scaled(levels), np.round(levels / 257.0))


@pytest.mark.parametrize(
    ("largest", "white"), [(255, 255), (256, 1023), (4095, 4095), (4096, 16_383), (16_384, 65_535)]
)
def test_white_is_that_of_the_fewest_bits(largest: int, white: int) -> None:
    values = np.array([[largest // 2, largest]], np.uint16)
    np.testing.assert_array_equal(scaled(values), np.round(values * (255.0 / white)))


def test_a_dark_float_picture_stays_dark() -> None:
    values = np.linspace(0, 0.5, 500, dtype=np.float32)[None]
    np.testing.assert_array_equal(scaled(values), np.round(values.astype(np.float64) * 255))


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 1e9, -1e9])
def test_single_pixels_do_not_decide(odd: float) -> None:
    values = EIGHT.astype(np.float32) / 100
    values[5, 7] = odd
    levels = scaled(values)
    assert levels[5, 7] == (255 if odd > 0 else 0)
    levels[5, 7] = EIGHT[5, 7]
    assert _largest_difference(levels, EIGHT) <= 3


@pytest.mark.parametrize("value", [0.0, 0.7, 5.0, -3.0, np.nan, np.inf, 1e38])
def test_flat_float_pictures_have_levels(value: float) -> None:
    assert np.ptp(scaled(np.full((9, 8), value, np.float32))) == 0


def test_a_few_stars_in_the_dark_are_seen() -> None:
    values = np.zeros((100, 100), np.float32)
    values[3, 4] = 70.0
    assert scaled(values)[3, 4] == 255
    assert scaled(values)[0, 0] == 0


def test_blocks_do_not_show() -> None:
    values = RNG.integers(0, 4096, (2300, 1000)).astype(np.uint16)
    np.testing.assert_array_equal(scaled(values), np.round(values * (255.0 / 4095.0)))


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "LAB", "P", "1", "RGBA", "RGBX", "La", "PA"])
def test_every_mode_becomes_gray_and_rgb(mode: str) -> None:
    rgb = Image.fromarray(EIGHT).resize((40, 30)).convert("RGB")
    if mode == "LAB":
        lab = ImageCms.profileToProfile(
            rgb, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
        assert lab is not None
        image = lab
    elif mode in ("La", "PA"):
        image = rgb.convert("LA" if mode == "La" else "P").convert(mode)
    else:
        image = rgb.convert(mode)
    tolerance = 255 if mode in ("1", "P", "PA") else 4
    assert _largest_difference(np.asarray(to_rgb(image)), np.asarray(rgb)) <= tolerance
    assert _largest_difference(np.asarray(to_gray(image)), np.asarray(rgb.convert("L"))) <= tolerance


def test_what_is_half_transparent_is_half_white() -> None:
    for mode, pixel in (("LA", (100, 128)), ("La", (50, 128)), ("RGBA", (100, 100, 100, 128))):
        image = Image.new(mode, (3, 2), pixel)
        assert to_rgb(image).getpixel((0, 0)) == pytest.approx((177, 177, 177), abs=2)
        assert to_gray(image).getpixel((0, 0)) == pytest.approx(177, abs=2)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("a.tif", EIGHT.astype(np.float32) / 255),
        ("b.tif", EIGHT.astype(np.int32)),
        ("c.png", EIGHT.astype(np.uint16) * 16),
        ("d.tif", EIGHT.astype(">u2") * 16),
        ("e.pgm", EIGHT.astype(np.uint16) * 257),
        ("f.jp2", EIGHT.astype(np.uint16) * 257),
    ],
)
def test_the_network_and_the_matcher_see_the_same(
    tmp_path: Path, name: str, values: Shaped[np.ndarray, "h w"]
) -> None:
    Image.fromarray(values).save(tmp_path / name)
    rgb = np.asarray(load_rgb(tmp_path / name).image)
    assert _largest_difference(rgb, np.repeat(EIGHT[..., None], 3, axis=2)) <= 1
    np.testing.assert_array_equal(load_gray(tmp_path / name, 200), rgb[..., 0])
