"""Pillow writes no colours of 16 bits: the files are put together here."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import UInt16
from PIL import Image

from groundwork.photos import inspect_photo, load_gray, load_rgb


def _png(values: UInt16[np.ndarray, "h w c"]) -> bytes:
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _tiff(values: UInt16[np.ndarray, "h w c"], order: str, *, packed: bool) -> bytes:
    height, width, channels = values.shape
    pixels = values.astype(f"{order}u2").tobytes()
    pixels = zlib.compress(pixels) if packed else pixels
    entries = [
        (256, 3, [width]),
        (257, 3, [height]),
        (258, 3, [16] * channels),
        (259, 3, [8 if packed else 1]),
    ]
    entries += [
        (262, 3, [2]),
        (273, 4, [0]),
        (277, 3, [channels]),
        (278, 3, [height]),
        (279, 4, [len(pixels)]),
    ]
    entries += [(338, 3, [2])] if channels == 4 else []
    end = 8 + 2 + 12 * len(entries) + 4
    directory = struct.pack(f"{order}H", len(entries))
    for tag, kind, numbers in entries:
        shown = [end + 8] if tag == 273 else numbers
        value = struct.pack(order + {3: "H", 4: "I"}[kind] * len(shown), *shown)
        # The bits of the channels are all that does not fit; they lie behind the directory.
        value = struct.pack(f"{order}I", end) if len(value) > 4 else value.ljust(4, b"\0")
        directory += struct.pack(f"{order}HHI", tag, kind, len(shown)) + value
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8)
    bits = struct.pack(order + "H" * channels, *([16] * channels)).ljust(8, b"\0")
    return head + directory + bytes(4) + bits + pixels


def _file(kind: str, values: UInt16[np.ndarray, "h w c"]) -> bytes:
    if kind == "png":
        return _png(values)
    return _tiff(values, "<" if "little" in kind else ">", packed="packed" in kind)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("kind", ["png", "little", "big", "little packed", "big packed"])
def test_colours_are_scaled_by_the_bits_they_use(tmp_path: Path, kind: str, channels: int, bits: int) -> None:
    values = np.random.default_rng(bits).integers(0, 2**bits, (70, 80, channels)).astype(np.uint16)
    values[..., 3:] = 65_535
    path = tmp_path / "deep"
    path.write_bytes(_file(kind, values))
    colours = values[..., :3].astype(np.float64)
    # Of all 16 bits the upper eight are shown, as ever.
    expected = values[..., :3] >> 8 if bits == 16 else np.round(colours * (255.0 / (2.0**bits - 1.0)))
    found = load_rgb(path).image
    np.testing.assert_array_equal(np.asarray(found), expected)
    np.testing.assert_array_equal(load_gray(path, 100), np.asarray(found.convert("L")))
    assert inspect_photo(path, max_megapixels=1.0, min_side_px=64).width == 80


def test_what_is_transparent_stays_so(tmp_path: Path) -> None:
    values = np.full((4, 5, 4), 4095, np.uint16)
    values[..., :3] = 0
    values[0, :, 3], values[1:, :, 3] = 0, 65_535
    values[3, 3, :3] = 4095
    (tmp_path / "deep.png").write_bytes(_png(values))
    found: Image.Image = load_rgb(tmp_path / "deep.png").image
    assert [found.getpixel(at) for at in ((0, 0), (0, 1), (3, 3))] == [(255,) * 3, (0,) * 3, (255,) * 3]
