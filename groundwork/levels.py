"""Pixels of any kind to eight bits, as a person would see them: gray or RGB."""

from math import isqrt

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image, ImageCms

# Bits of a pixel that sensors, scanners and programs have, whatever the file has room for.
_DEPTHS = (8, 10, 12, 14, 16)
# Of pixels without a known white, so many are darker than black, and as many lighter than white.
_CLIPPED_PERCENT = 0.1
_SAMPLED = 1_000_000
_BLOCK = 1_000_000
_TIFF_SAMPLE_FORMAT, _UNSIGNED = 339, 1


def to_gray(image: Image.Image) -> Image.Image:
    """`image` in mode L; see `to_rgb`."""
    return _plain(image).convert("L")


def to_rgb(image: Image.Image) -> Image.Image:
    """`image` in mode RGB: what is transparent over white, deep gray by the range it has (`scaled`)."""
    return _plain(image).convert("RGB")


def _plain(image: Image.Image) -> Image.Image:
    """Opaque, of eight bits, and of a mode that Pillow converts to gray and to RGB."""
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(scaled(_values(image)))
    if image.mode == "LAB":
        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB")
        assert converted is not None
        return converted
    if image.has_transparency_data:
        layer = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB") if image.mode in ("P", "HSV") else image


def _values(image: Image.Image) -> Shaped[np.ndarray, "h w"]:
    values = np.asarray(image)
    kind = getattr(image, "tag_v2", {}).get(_TIFF_SAMPLE_FORMAT, (_UNSIGNED,))
    # Pillow has signed pixels of 32 bits only, and reads unsigned ones of a TIFF as if they were.
    unsigned = image.format == "TIFF" and values.dtype == np.int32 and kind == (_UNSIGNED,)
    return values.view(np.uint32) if unsigned else values


def scaled(values: Shaped[np.ndarray, "h w *c"]) -> UInt8[np.ndarray, "h w *c"]:
    """Deep pixels as eight bits, linear between a black and a white that depend on the file alone.

    A file does not say how much of its room its pixels use; taken for the whole of it, a photo of 12 bits in
    a file of 16 is black. What the largest value says is used instead:

    - Integers from 0 on: black is 0 and white 2**bits - 1 with the fewest of 8, 10, 12, 14 and 16 bits that
      hold the largest. A photo that reaches a quarter of 65535 somewhere is divided by 257, as usual.
    - Floats in 0..1 that reach beyond a quarter: as they are.
    - Anything else has no usual white. A thousandth of the pixels is darker than black, and another one
      lighter than white: single pixels, hot or without data, must not decide.

    What is not a number is black.
    """
    black, white = _range(values)
    levels = np.empty(values.shape, np.uint8)
    rows = max(1, _BLOCK // max(1, values.shape[1]))
    for first in range(0, len(values), rows):
        part = values[first : first + rows].astype(np.float64)
        known = np.nan_to_num(part, nan=black, posinf=white, neginf=black)
        shown = (known - black) * (255.0 / ((white - black) or 1.0))
        levels[first : first + rows] = np.clip(shown, 0.0, 255.0).round()
    return levels


def _range(values: Shaped[np.ndarray, "h w *c"]) -> tuple[float, float]:
    """Black and white; equal where all pixels are."""
    lowest, highest = _extremes(values)
    if np.issubdtype(values.dtype, np.integer):
        for bits in _DEPTHS:
            if lowest >= 0 and highest < 2**bits:
                return 0.0, 2.0**bits - 1.0
    elif lowest >= 0.0 and 0.25 < highest <= 1.0:
        return 0.0, 1.0
    step = max(1, isqrt(values.size // _SAMPLED))
    sample = values[::step, ::step].astype(np.float64)
    sample = sample[np.isfinite(sample)]
    if len(sample):
        black, white = np.percentile(sample, [_CLIPPED_PERCENT, 100.0 - _CLIPPED_PERCENT]).tolist()
        if black < white:
            return black, white
    # Nearly all pixels are the same, or none is a number.
    return lowest, highest


def _extremes(values: Shaped[np.ndarray, "h w *c"]) -> tuple[float, float]:
    """The smallest and the largest number among the values; 0 and 0 where there is none."""
    if np.issubdtype(values.dtype, np.integer):
        return float(values.min()), float(values.max())
    known = np.isfinite(values)
    lowest = float(values.min(where=known, initial=np.inf))
    return (lowest, float(values.max(where=known, initial=-np.inf))) if lowest < np.inf else (0.0, 0.0)
