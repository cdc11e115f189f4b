"""What child processes do for the page: decode one photo to levels or to a small JPEG. No torch here."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from cnnimretrieval.descriptors.images import Box, ImageRequest, open_request, read_levels
from groundwork.orientation import upright_size
from groundwork.photos import UnusablePhoto, stored_shape

_QUALITY = 82


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """A photo, or the box of it, as a network takes it; `size` is that of the whole photo, upright."""

    levels: UInt8[np.ndarray, "3 h w"]
    size: tuple[int, int]


class OutsidePhoto(Exception):
    """The box has no pixel on the photo; the text gives the photo's size."""


def decode(path: Path, box: Box | None, image_size: int, max_megapixels: float) -> Decoded:
    """The levels, scaled as `describe` scales them.

    UnusablePhoto with the reason for what is no photo or has more pixels than `max_megapixels`, which is seen
    before it is decoded; OutsidePhoto for a box beside it.
    """
    width, height = photo_size(path)
    if width * height > max_megapixels * 1e6:
        raise UnusablePhoto(f"too large: {width} x {height} pixels, at most {max_megapixels:g} million")
    try:
        levels = read_levels(ImageRequest(path=path, box=box), image_size)
    except OSError as error:
        raise error.__cause__ if isinstance(error.__cause__, UnusablePhoto) else error from None
    except ValueError:
        raise OutsidePhoto(f"{width} x {height}") from None
    return Decoded(levels=levels, size=(width, height))


def photo_size(path: Path) -> tuple[int, int]:
    """Width and height of the upright photo; UnusablePhoto when it is none."""
    return upright_size(*stored_shape(path))


def small_jpeg(path: Path, longest_px: int) -> bytes:
    """The photo, upright and with its longest side at most `longest_px`, as a JPEG without any metadata."""
    try:
        picture = open_request(ImageRequest(path=path), longest_px)
    except OSError as error:
        raise error.__cause__ if isinstance(error.__cause__, UnusablePhoto) else error from None
    stream = io.BytesIO()
    plain = picture.convert("RGB")
    plain.info.clear()
    plain.save(stream, format="JPEG", quality=_QUALITY, optimize=True, progressive=True)
    return stream.getvalue()
