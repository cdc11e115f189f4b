"""The one opener of photos: is a file sound, how large, held how, by which lens; its pixels, gray or RGB."""

import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from groundwork.deep_colour import decode
from groundwork.digest import sha256_of
from groundwork.exif import read_exif, read_gps, read_orientation
from groundwork.levels import to_gray, to_rgb
from groundwork.orientation import upright, upright_size
from groundwork.photo_formats import HEAD_BYTES, formats_for, reason_not_whole, reason_unread

# Larger photos are refused undecoded, everywhere: a file of a few bytes can unpack to any size. As large as
# Pillow itself allows.
MAX_MEGAPIXELS = 178.0
THUMBNAIL_PX = 24


class UnusablePhoto(Exception):
    """A finding, not a failure: the file is no usable photo. The text is a reason that can be counted."""


@dataclass(frozen=True, kw_only=True)
class Photo:
    """What a sound photo file says about itself.

    Attributes:
        sha256: of the file's bytes.
        width: in stored pixels, before the EXIF orientation is applied; so is `height`.
        orientation: EXIF orientation, 1 (upright) to 8.
        focal_px: focal length from EXIF in stored pixels, NaN where EXIF does not tell.
        camera: make, model and focal length from EXIF; equal for photos that share a lens setting, else "".
        latitude: in degrees from EXIF, north positive; NaN where EXIF does not tell.
        longitude: the same, east positive.
        thumbnail: the stored photo squeezed to a square of THUMBNAIL_PX, a gray value a byte, row by row.

    """

    sha256: str
    width: int
    height: int
    orientation: int
    focal_px: float
    camera: str
    latitude: float
    longitude: float
    thumbnail: bytes


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """A photo as a person sees it: RGB, upright, possibly smaller than `full_size`, its width and height.

    Upright unless it was asked for as it is stored.
    """

    image: Image.Image
    full_size: tuple[int, int]


def inspect_photo(path: Path, *, max_megapixels: float, min_side_px: int) -> Photo:
    """Decode the whole file and return what it says about itself, or raise UnusablePhoto with the reason.

    What is usable here, `load_gray` and `load_rgb` can read.
    """
    with _opened(path, max_megapixels) as image:
        width, height = image.size
        if min(width, height) < min_side_px:
            raise UnusablePhoto("too small")
        _decode(image, path)
        plain = image.mode in ("L", "RGB") and not image.has_transparency_data
        shown = image if plain else to_rgb(image)
        orientation, focal_px, camera = read_exif(image)
        latitude, longitude = read_gps(image)
        return Photo(
            sha256=sha256_of(path),
            width=width,
            height=height,
            orientation=orientation,
            focal_px=focal_px,
            camera=camera,
            latitude=latitude,
            longitude=longitude,
            thumbnail=_thumbnail(shown),
        )


def stored_shape(path: Path) -> tuple[int, int, int]:
    """Stored width and height in px, and EXIF orientation; only the head of the file is read.

    UnusablePhoto with the reason when it is no photo.
    """
    with _opened(path, MAX_MEGAPIXELS) as image:
        return image.width, image.height, read_orientation(image)


def load_gray(path: Path, max_side_px: int) -> UInt8[np.ndarray, "h w"]:
    """Return the stored photo in gray, shrunk so that its longer side is at most `max_side_px`.

    The EXIF orientation is not applied. UnusablePhoto with the reason when the file cannot be decoded.
    """
    with _opened(path, MAX_MEGAPIXELS) as image:
        image.draft("L", (max_side_px, max_side_px))
        _decode(image, path)
        gray = to_gray(image)
    shrink = max_side_px / max(gray.size)
    if shrink < 1:
        size = (max(1, round(gray.width * shrink)), max(1, round(gray.height * shrink)))
        gray = gray.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.asarray(gray, dtype=np.uint8)


def load_rgb(path: Path, min_longest_px: float | None = None, *, as_stored: bool = False) -> Picture:
    """The photo in colour and upright, or `as_stored`, before its EXIF orientation is applied.

    With `min_longest_px` a JPEG may come back smaller, but never with its longest side below that. The first
    frame of an animation or page of a document. UnusablePhoto with the reason when it cannot be decoded.
    """
    with _opened(path, MAX_MEGAPIXELS) as image:
        stored_size = image.size
        if min_longest_px is not None:
            factor = min(1.0, min_longest_px / max(image.size))
            image.draft(None, (round(image.width * factor), round(image.height * factor)))
        reduced = image.size != stored_size
        _decode(image, path)
        rgb = to_rgb(image)
        orientation = 1 if as_stored else read_orientation(image)
        turned = upright(rgb, orientation)
    full_size = upright_size(*stored_size, orientation) if reduced else turned.size
    return Picture(image=turned, full_size=full_size)


def _decode(image: ImageFile, path: Path) -> None:
    decode(image, lambda: Image.open(path, formats=[str(image.format)]))


@contextmanager
def _opened(path: Path, max_megapixels: float) -> Iterator[ImageFile]:
    """The recognised photo, not decoded yet; whatever goes wrong before the block ends is UnusablePhoto."""
    # Odd EXIF blocks, palettes and sizes warn; what matters is judged here and counted.
    with _as_findings(), warnings.catch_warnings(action="ignore"):
        head = _head(path)
        formats, reason = formats_for(head)
        if reason := reason or reason_not_whole(path, head):
            raise UnusablePhoto(reason)
        try:
            opened = Image.open(path, formats=[name for name in formats if name in Image.OPEN])
        except UnidentifiedImageError:
            raise UnusablePhoto(reason_unread(head)) from None
        with opened as image:
            if image.width * image.height > max_megapixels * 1e6:
                raise UnusablePhoto("too large")
            if min(image.size) < 1:
                raise UnusablePhoto("too small")
            yield image


@contextmanager
def _as_findings() -> Iterator[None]:
    try:
        yield
    except UnusablePhoto:
        raise
    except Image.DecompressionBombError:
        raise UnusablePhoto("too large") from None
    except MemoryError:
        raise UnusablePhoto("too large for the memory") from None
    except Exception as error:  # decoders raise whatever the damage leads them to
        if isinstance(error, OSError) and error.strerror:
            raise UnusablePhoto(f"cannot be read: {error.strerror}") from None
        truncated = "truncated" in str(error).lower() or isinstance(error, EOFError)
        raise UnusablePhoto("truncated" if truncated else "damaged") from None


def _head(path: Path) -> bytes:
    """The first bytes of a regular file; to open a pipe is to wait for whoever writes it."""
    facts = path.stat()
    if not stat.S_ISREG(facts.st_mode):
        raise UnusablePhoto("not a regular file")
    if facts.st_size == 0:
        raise UnusablePhoto("empty")
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def _thumbnail(image: Image.Image) -> bytes:
    # Averaged before it is gray: that takes half the time. By a smooth filter: a box that is not a whole
    # number of pixels wide would be moved by half a pixel.
    square = (THUMBNAIL_PX, THUMBNAIL_PX)
    return image.resize(square, Image.Resampling.BILINEAR, reducing_gap=3.0).convert("L").tobytes()
