"""One photo file: is it sound, how large, how held, with which lens; and its pixels in gray."""

import hashlib
import math
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

from sfm.gps import read_position

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
_ORIENTATION, _MAKE, _MODEL, _EXIF_FOLDER, _GPS_FOLDER = 0x0112, 0x010F, 0x0110, 0x8769, 0x8825
_FOCAL_MM, _FOCAL_35MM, _WIDTH_PX, _HEIGHT_PX = 0x920A, 0xA405, 0xA002, 0xA003
_PLANE_RESOLUTION, _PLANE_UNIT = 0xA20E, 0xA210
_MM_PER_UNIT = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}
_DIAGONAL_35MM = math.hypot(36.0, 24.0)
THUMBNAIL_PX = 24
# Of what has to become gray before it can be averaged, so many rows and columns are looked at, at most.
_SAMPLED_PX = 2048


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
            thumbnail = _decode(image)
            orientation, focal_px, camera = _read_exif(image)
            latitude, longitude = _read_gps(image)
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
        thumbnail=thumbnail,
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


def _decode(image: Image.Image) -> bytes:
    """Decode all of the image; return its thumbnail."""
    try:
        image.load()
        return _thumbnail(image)
    except Exception as error:  # decoders raise whatever the damage leads them to
        truncated = "truncated" in str(error) or isinstance(error, EOFError)
        raise UnusablePhoto("truncated" if truncated else "damaged") from None


def _thumbnail(image: Image.Image) -> bytes:
    # Averaged before it is gray: that takes half the time. Not where values are numbers of colours, or deep.
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        image = _squeezed(image)
    else:
        size = (min(image.width, _SAMPLED_PX), min(image.height, _SAMPLED_PX))
        image = image.resize(size, Image.Resampling.NEAREST)
    return _squeezed(_to_gray(image)).tobytes()


def _squeezed(image: Image.Image) -> Image.Image:
    # A smooth filter: the box that is not a whole number of pixels wide would be moved by half a pixel.
    return image.resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BILINEAR, reducing_gap=3.0)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_exif(image: Image.Image) -> tuple[int, float, str]:
    try:
        exif = image.getexif()
        lens = exif.get_ifd(_EXIF_FOLDER)
    except Exception:  # a damaged EXIF block costs its hints only
        return 1, math.nan, ""
    orientation = exif.get(_ORIENTATION, 1)
    orientation = orientation if orientation in range(1, 9) else 1
    focal_px = _focal_px(lens, image.width, image.height)
    if math.isnan(focal_px):
        return orientation, focal_px, ""
    maker = " ".join(str(exif.get(tag, "")).strip(" \0") for tag in (_MAKE, _MODEL)).strip()
    return orientation, focal_px, f"{maker} {focal_px:.2f}" if maker else ""


def _read_gps(image: Image.Image) -> tuple[float, float]:
    try:
        return read_position(image.getexif().get_ifd(_GPS_FOLDER))
    except Exception:  # a damaged EXIF block costs its hints only
        return math.nan, math.nan


def _focal_px(lens: dict[int, object], width: int, height: int) -> float:
    """Focal length in pixels, by its 35 mm equivalent (same diagonal) or by the sensor's resolution."""
    focal_35mm = _number(lens.get(_FOCAL_35MM))
    focal_mm = _number(lens.get(_FOCAL_MM))
    resolution = _number(lens.get(_PLANE_RESOLUTION))
    mm_per_unit = _MM_PER_UNIT.get(int(_number(lens.get(_PLANE_UNIT, 2))), 0.0)
    taken_px = max(_number(lens.get(_WIDTH_PX)), _number(lens.get(_HEIGHT_PX)))
    focal_px = math.nan
    if focal_35mm > 0:
        focal_px = focal_35mm / _DIAGONAL_35MM * math.hypot(width, height)
    elif focal_mm > 0 and resolution > 0 and mm_per_unit > 0 and taken_px > 0:
        # The photo may have been shrunk since: the sensor's resolution belongs to the size it was taken at.
        focal_px = focal_mm * resolution / mm_per_unit * max(width, height) / taken_px
    plausible = 0.2 <= focal_px / max(width, height) <= 10
    return focal_px if plausible else math.nan


def _number(value: object) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError):
        return 0.0
    return number if math.isfinite(number) else 0.0
