"""What EXIF says about a photo: its orientation, lens and position; a damaged block costs its hints only."""

import math
from collections.abc import Mapping

from PIL import Image
from PIL.ExifTags import GPS, IFD, Base

_MM_PER_UNIT = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}
_DIAGONAL_35MM = math.hypot(36.0, 24.0)


def read_orientation(image: Image.Image) -> int:
    """How the photo was held, 1 (upright) to 8; 1 where EXIF does not tell.

    Of a TIFF it is 1 always: Pillow turns the pixels as it decodes them, and tells the upright size before.
    """
    if image.format == "TIFF":
        return 1
    try:
        value = image.getexif().get(Base.Orientation, 1)
        return int(value) if value in range(1, 9) else 1
    except Exception:  # a damaged EXIF block costs its hints only
        return 1


def read_exif(image: Image.Image) -> tuple[int, float, str]:
    """Orientation, 1 to 8, focal length in px and camera; 1, NaN and "" where EXIF does not tell."""
    orientation = read_orientation(image)
    try:
        exif = image.getexif()
        lens = exif.get_ifd(IFD.Exif)
        focal_px = _focal_px(lens, image.width, image.height)
    except Exception:  # a damaged EXIF block costs its hints only
        return orientation, math.nan, ""
    if math.isnan(focal_px):
        return orientation, focal_px, ""
    maker = " ".join(str(exif.get(tag, "")).strip(" \0") for tag in (Base.Make, Base.Model)).strip()
    return orientation, focal_px, f"{maker} {focal_px:.2f}" if maker else ""


def read_gps(image: Image.Image) -> tuple[float, float]:
    """Latitude and longitude of the photo, as `read_position` returns them."""
    try:
        return read_position(image.getexif().get_ifd(IFD.GPSInfo))
    except Exception:  # a damaged EXIF block costs its hints only
        return math.nan, math.nan


def _focal_px(lens: dict[int, object], width: int, height: int) -> float:
    """Focal length in pixels, by its 35 mm equivalent (same diagonal) or by the sensor's resolution."""
    focal_35mm = _number(lens.get(Base.FocalLengthIn35mmFilm))
    focal_mm = _number(lens.get(Base.FocalLength))
    resolution = _number(lens.get(Base.FocalPlaneXResolution))
    mm_per_unit = _MM_PER_UNIT.get(int(_number(lens.get(Base.FocalPlaneResolutionUnit, 2))), 0.0)
    taken_px = max(_number(lens.get(Base.ExifImageWidth)), _number(lens.get(Base.ExifImageHeight)))
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


def read_position(gps: Mapping[int, object]) -> tuple[float, float]:
    """Latitude and longitude in degrees, north and east positive, from EXIF's GPS block; NaN where unknown.

    (0, 0) counts as unknown: it is what a receiver without a fix writes.
    """
    latitude = _degrees(gps.get(GPS.GPSLatitude), gps.get(GPS.GPSLatitudeRef), "N", "S", limit=90.0)
    longitude = _degrees(gps.get(GPS.GPSLongitude), gps.get(GPS.GPSLongitudeRef), "E", "W", limit=180.0)
    if math.isnan(latitude) or math.isnan(longitude) or latitude == longitude == 0.0:
        return math.nan, math.nan
    return latitude, longitude


def _degrees(angle: object, reference: object, plus: str, minus: str, *, limit: float) -> float:
    """An angle given as degrees, minutes, seconds and its half of the globe; NaN where it makes no sense."""
    sign = {plus: 1.0, minus: -1.0}.get(str(reference).strip(" \0").upper(), math.nan)
    try:
        degrees, minutes, seconds = (float(part) for part in angle)  # type: ignore[attr-defined]
    except (TypeError, ValueError, ZeroDivisionError):
        return math.nan
    value = sign * (degrees + minutes / 60.0 + seconds / 3600.0)
    return value if abs(value) <= limit else math.nan
