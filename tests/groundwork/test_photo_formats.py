"""What is told by name: raw files, formats that need another reader, and what would start a program."""

import io
import struct
import sys
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from groundwork import photo_formats
from groundwork.photo_formats import PREVIEW, RAW
from groundwork.photos import UnusablePhoto, inspect_photo, load_gray, load_rgb

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize(
    (160, 120)
)


def _reason(path: Path) -> str:
    with pytest.raises(UnusablePhoto) as finding:
        inspect_photo(path, max_megapixels=1.0, min_side_px=20)
    for load in (load_rgb, lambda path: load_gray(path, 100)):
        with pytest.raises(UnusablePhoto) as again:
            load(path)
        assert str(again.value) == str(finding.value)
    return str(finding.value)


def _tags(**values: object) -> ImageFileDirectory_v2:
    tags = ImageFileDirectory_v2()
    for name, value in values.items():
        tags[int(name.removeprefix("tag_"))] = value
    return tags


@pytest.mark.parametrize(
    ("name", "tags", "reason"),
    [
        ("a.tif", {"tag_254": 1, "tag_271": "NIKON CORPORATION"}, RAW),
        ("a.tif", {"tag_255": 2, "tag_271": "Canon"}, RAW),
        ("a.tif", {"tag_254": 1}, PREVIEW),
        ("a.tif", {"tag_50706": b"\1\4\0\0"}, RAW),
        ("a.NEF", {}, RAW),
        ("a.dng", {"tag_271": "Maker"}, RAW),
    ],
)
def test_a_preview_is_not_the_photo(tmp_path: Path, name: str, tags: dict[str, object], reason: str) -> None:
    PHOTO.save(tmp_path / name, format="TIFF", tiffinfo=_tags(**tags))
    assert _reason(tmp_path / name) == reason


def _with_inner(path: Path, inner_size: tuple[int, int], *, colours: int = 2, order: str = "<") -> None:
    """A TIFF of 160 x 120 with a sub-directory that says it has another size."""
    file = io.BytesIO()
    PHOTO.save(file, "TIFF", tiffinfo=_tags(tag_271="Maker", tag_330=0x7FFFFFFF))
    content = bytearray(file.getvalue())
    at = content.find(struct.pack("<I", 0x7FFFFFFF))
    content[at : at + 4] = struct.pack("<I", len(content))
    entries = [(256, inner_size[0]), (257, inner_size[1]), (262, colours)]
    content += struct.pack("<H", len(entries))
    content += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries) + bytes(4)
    path.write_bytes(content)


def test_what_a_sub_directory_holds_decides(tmp_path: Path) -> None:
    _with_inner(tmp_path / "raw.tif", (4000, 3000))
    _with_inner(tmp_path / "sensor.tif", (100, 90), colours=32803)
    _with_inner(tmp_path / "scan with thumbnail.tif", (80, 60))
    assert _reason(tmp_path / "raw.tif") == _reason(tmp_path / "sensor.tif") == RAW
    assert load_rgb(tmp_path / "scan with thumbnail.tif").image.size == (160, 120)


def test_the_first_page_of_a_document_is_used(tmp_path: Path) -> None:
    PHOTO.save(tmp_path / "pages.tif", save_all=True, append_images=[PHOTO.resize((300, 200))])
    assert load_rgb(tmp_path / "pages.tif").image.size == (160, 120)


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"FUJIFILMCCD-RAW 0201FF", RAW),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", RAW),
        (b"II*\0\x10\0\0\0CR\2\0", RAW),
        (b"IIU\0\x18\0\0\0", RAW),
        (b"\xff\x0a\xfa\x7f\1", "JPEG XL: convert it to JPEG or PNG"),
        (b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl ", "JPEG XL: convert it to JPEG or PNG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic1", "HEIC: damaged"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif1", "AVIF: install a Pillow that reads it or convert it"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp41", "not an image"),
        (b"II*\0\x08\0\0\0\0\0", "TIFF of an unknown kind: convert it"),
    ],
)
def test_what_cannot_be_read_is_told_by_name(tmp_path: Path, head: bytes, reason: str) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(head + bytes(300))
    assert _reason(path) == reason


@pytest.mark.parametrize("suffix", ["jpg", "eps", "tif"])
def test_no_program_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    log, program = tmp_path / "log", tmp_path / "gs"
    program.write_text(f"#!/bin/sh\necho started >> '{log}'\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    PHOTO.save(tmp_path / f"holiday.{suffix}", "EPS")
    assert _reason(tmp_path / f"holiday.{suffix}") == "not an image"
    assert not log.exists()


def test_heic_is_read_upright(tmp_path: Path) -> None:
    pillow_heif.from_pillow(PHOTO).save(tmp_path / "a.heic", quality=95)
    found = load_rgb(tmp_path / "a.heic")
    assert found.full_size == (160, 120)
    assert np.abs(np.asarray(found.image, np.int64) - np.asarray(PHOTO, np.int64)).mean() < 8
    assert inspect_photo(tmp_path / "a.heic", max_megapixels=1.0, min_side_px=20).width == 160
    cut = (tmp_path / "a.heic").read_bytes()
    (tmp_path / "cut.heic").write_bytes(cut[: len(cut) // 2])
    assert _reason(tmp_path / "cut.heic") in ("HEIC: damaged", "damaged", "truncated")


def test_heic_without_its_reader_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pillow_heif.from_pillow(PHOTO).save(tmp_path / "a.jpg", format="HEIF")
    photo_formats._reads_heif.cache_clear()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert _reason(tmp_path / "a.jpg") == "HEIC: install cnnimretrieval[heif] or convert it"
    photo_formats._reads_heif.cache_clear()


def test_avif_is_read(tmp_path: Path) -> None:
    PHOTO.save(tmp_path / "a.avif", quality=90)
    assert load_rgb(tmp_path / "a.avif").image.size == (160, 120)
