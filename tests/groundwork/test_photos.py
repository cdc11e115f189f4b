import io
import math
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from groundwork.photos import Photo, UnusablePhoto, inspect_photo, load_gray


def _inspect(path: Path) -> Photo:
    return inspect_photo(path, max_megapixels=1.0, min_side_px=20)


def _noise(height: int = 40, width: int = 60) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def _bytes(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _huge_png() -> bytes:
    """A valid PNG of a few bytes that says it has 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


_PNG = _bytes(_noise(), "PNG")
_JPEG = _bytes(_noise(), "JPEG")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"just text", "not an image"),
        (b"GIF89a", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n", "not an image"),
        (_JPEG[: len(_JPEG) // 2], "truncated"),
        (_PNG[: len(_PNG) // 2], "truncated"),
        (_PNG[:100] + b"\0" * 50 + _PNG[150:], "damaged"),
        (_huge_png(), "too large"),
        (_bytes(Image.new("L", (1250, 1000)), "PNG"), "too large"),
        (_bytes(Image.new("L", (400, 19)), "PNG"), "too small"),
    ],
)
def test_what_is_no_photo_has_a_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(UnusablePhoto) as finding:
        _inspect(path)
    assert str(finding.value) == reason


def test_a_file_that_cannot_be_read_has_a_reason(tmp_path: Path) -> None:
    with pytest.raises(UnusablePhoto, match=r"^cannot be read: No such file or directory$"):
        _inspect(tmp_path / "gone.jpg")


@pytest.mark.parametrize(
    ("image", "kind", "options"),
    [
        (_noise(), "JPEG", {}),
        (_noise(), "JPEG", {"progressive": True}),
        (_noise().convert("CMYK"), "JPEG", {}),
        (_noise().convert("P"), "PNG", {}),
        (_noise().convert("LA"), "PNG", {}),
        (_noise().convert("1"), "PNG", {}),
        (_noise().convert("RGBA"), "WEBP", {}),
        (_noise(), "GIF", {"save_all": True, "append_images": [Image.new("RGB", (60, 40))]}),
        (_noise(), "TIFF", {}),
        (_noise(), "BMP", {}),
    ],
)
def test_every_kind_of_photo_is_used(
    tmp_path: Path, image: Image.Image, kind: str, options: dict[str, object]
) -> None:
    path = tmp_path / "a b\nä"
    path.write_bytes(_bytes(image, kind, **options))
    photo = _inspect(path)
    assert (photo.width, photo.height, photo.orientation, photo.camera) == (60, 40, 1, "")
    assert math.isnan(photo.focal_px)
    gray = load_gray(path, 100)
    assert gray.shape == (40, 60)
    assert gray.dtype == np.uint8
    # The first frame of the animation is the noise, and lossy formats keep its contrast.
    assert gray.std() > 20


def test_orientation_is_told_and_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    _noise().save(tmp_path / "a.jpg", exif=exif)
    photo = _inspect(tmp_path / "a.jpg")
    assert (photo.width, photo.height, photo.orientation) == (60, 40, 6)
    assert load_gray(tmp_path / "a.jpg", 100).shape == (40, 60)


@pytest.mark.parametrize(
    ("lens", "focal_px"),
    [
        # 30 mm on a diagonal of 43.267 mm; the photo's diagonal is 50 px.
        ({0xA405: 30}, 30 / 43.266615 * 50),
        # 3000 px taken at 100 px/mm with 35 mm: 3500 px, shrunk to 40 of 3000.
        ({0x920A: IFDRational(35), 0xA20E: IFDRational(100), 0xA210: 4, 0xA002: 3000}, 3500 * 40 / 3000),
        ({0x920A: IFDRational(35)}, math.nan),
        ({0xA405: 0}, math.nan),
        ({0xA405: 65000}, math.nan),
        ({0x920A: IFDRational(1, 0), 0xA20E: IFDRational(0, 0)}, math.nan),
    ],
)
def test_focal_length_from_exif(tmp_path: Path, lens: dict[int, object], focal_px: float) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Maker", "Model 1"
    exif.get_ifd(0x8769).update(lens)
    _noise(30, 40).save(tmp_path / "a.jpg", exif=exif)
    photo = _inspect(tmp_path / "a.jpg")
    assert photo.focal_px == pytest.approx(focal_px, nan_ok=True)
    assert photo.camera == ("" if math.isnan(focal_px) else f"Maker Model 1 {focal_px:.2f}")


def test_position_from_exif(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8825).update({1: "N", 2: (59.0, 26.0, 13.2), 3: "W", 4: (24.0, 45.0, 0.0)})
    _noise().save(tmp_path / "a.jpg", exif=exif)
    photo = _inspect(tmp_path / "a.jpg")
    assert (photo.latitude, photo.longitude) == (pytest.approx(59.437), -24.75)
    _noise().save(tmp_path / "b.jpg")
    photo = _inspect(tmp_path / "b.jpg")
    assert math.isnan(photo.latitude)
    assert math.isnan(photo.longitude)


def test_16_bit_is_scaled_not_clipped(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 60).round().astype(np.uint16)
    Image.fromarray(np.tile(ramp, (40, 1))).save(tmp_path / "a.png")
    gray = load_gray(tmp_path / "a.png", 100)
    np.testing.assert_allclose(gray[0], np.linspace(0, 255, 60), atol=1)


def test_float_pixels_are_scaled_by_their_largest(tmp_path: Path) -> None:
    Image.fromarray(np.tile(np.linspace(0, 3, 60, dtype=np.float32), (40, 1))).save(tmp_path / "a.tif")
    np.testing.assert_allclose(load_gray(tmp_path / "a.tif", 100)[0], np.linspace(0, 255, 60), atol=1)


def test_transparent_pixels_are_white(tmp_path: Path) -> None:
    Image.new("RGBA", (60, 40), (0, 0, 0, 0)).save(tmp_path / "a.png")
    assert (load_gray(tmp_path / "a.png", 100) == 255).all()


@pytest.mark.parametrize(("side", "shape"), [(30, (20, 30)), (61, (40, 60)), (7, (5, 7))])
def test_photos_are_shrunk_never_enlarged(tmp_path: Path, side: int, shape: tuple[int, int]) -> None:
    _noise().save(tmp_path / "a.png")
    assert load_gray(tmp_path / "a.png", side).shape == shape


def test_equal_bytes_have_equal_hashes(tmp_path: Path) -> None:
    for name, content in (("a", _PNG), ("b", _PNG), ("c", _JPEG)):
        (tmp_path / name).write_bytes(content)
    hashes = [_inspect(tmp_path / name).sha256 for name in "abc"]
    assert hashes[0] == hashes[1] != hashes[2]
    assert len(hashes[0]) == 64


def test_nothing_is_printed_or_warned(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + os.urandom(20)
    (tmp_path / "a.jpg").write_bytes(_bytes(_noise(), "JPEG", exif=exif))
    assert _inspect(tmp_path / "a.jpg").orientation == 1
    assert capfd.readouterr() == ("", "")
