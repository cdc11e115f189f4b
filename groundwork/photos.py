"""One photo file: is it sound, how large, how held, with which lens; and its pixels in gray."""

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from groundwork.exif import read_exif, read_gps

# Formats that Pillow decodes by itself: others start outside programs (EPS) or are no photos. Naming their
# modules also registers them here, once, rather than at the first photo of every child process.
_FORMATS = [
    JpegImagePlugin.JpegImageFile.format,
    PngImagePlugin.PngImageFile.format,
    WebPImagePlugin.WebPImageFile.format,
    GifImagePlugin.GifImageFile.format,
    TiffImagePlugin.TiffImageFile.format,
    BmpImagePlugin.BmpImageFile.format,
    PpmImagePlugin.PpmImageFile.format,
    Jpeg2KImagePlugin.Jpeg2KImageFile.format,
    AvifImagePlugin.AvifImageFile.format,
]


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

    """

    sha256: str
    width: int
    height: int
    orientation: int
    focal_px: float
    camera: str
    latitude: float
    longitude: float


def inspect_photo(path: Path, *, max_megapixels: float, min_side_px: int) -> Photo:
    """Decode the whole file and return what it says about itself, or raise UnusablePhoto with the reason."""
    try:
        if path.stat().st_size == 0:
            raise UnusablePhoto("empty")
        with _opened(path) as image:
            width, height = image.size
            if width * height > max_megapixels * 1e6:
                raise UnusablePhoto("too large")
            if min(width, height) < min_side_px:
                raise UnusablePhoto("too small")
            _decode(image)
            orientation, focal_px, camera = read_exif(image)
            latitude, longitude = read_gps(image)
        digest = _sha256(path)
    except Image.DecompressionBombError:
        raise UnusablePhoto("too large") from None
    except UnidentifiedImageError:
        raise UnusablePhoto("not an image") from None
    except OSError as error:
        reason = f"cannot be read: {error.strerror}" if error.strerror else "damaged"
        raise UnusablePhoto(reason) from None
    return Photo(
        sha256=digest,
        width=width,
        height=height,
        orientation=orientation,
        focal_px=focal_px,
        camera=camera,
        latitude=latitude,
        longitude=longitude,
    )


def load_gray(path: Path, max_side_px: int) -> UInt8[np.ndarray, "h w"]:
    """Return the stored photo in gray, shrunk so that its longer side is at most `max_side_px`.

    The EXIF orientation is not applied. OSError when the file cannot be decoded.
    """
    with _opened(path) as image:
        image.draft("L", (max_side_px, max_side_px))
        gray = _to_gray(image)
    shrink = max_side_px / max(gray.size)
    if shrink < 1:
        size = (max(1, round(gray.width * shrink)), max(1, round(gray.height * shrink)))
        gray = gray.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.asarray(gray, dtype=np.uint8)


def _to_gray(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow's own conversion clips to 0..255. Integers are 16-bit here; floats have no fixed white.
        values = np.asarray(image, dtype=np.float64)
        white = 65535.0 if image.mode != "F" else float(values.max(initial=0)) or 1.0
        return Image.fromarray(np.clip(values * (255.0 / white), 0, 255).round().astype(np.uint8))
    if image.mode in ("P", "PA", "LA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        background = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(background, layer).convert("L")
    return image.convert("L")


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    # Odd EXIF blocks, palettes and sizes warn; what matters is judged here and counted.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path, formats=[name for name in _FORMATS if name in Image.OPEN]) as image:
            yield image


def _decode(image: Image.Image) -> None:
    try:
        image.load()
    except Exception as error:  # decoders raise whatever the damage leads them to
        truncated = "truncated" in str(error) or isinstance(error, EOFError)
        raise UnusablePhoto("truncated" if truncated else "damaged") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
