"""Which files are photos, by what stands in them: a file's head and, of a TIFF, its directories."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from itertools import chain, islice
from pathlib import Path

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from PIL.TiffImagePlugin import ImageFileDirectory_v2

# Formats that Pillow decodes by itself: others start outside programs (EPS) or are no photos. Naming their
# modules also registers them here, once, rather than at the first photo of every child process.
_FORMATS = (
    JpegImagePlugin.JpegImageFile.format,
    PngImagePlugin.PngImageFile.format,
    WebPImagePlugin.WebPImageFile.format,
    GifImagePlugin.GifImageFile.format,
    TiffImagePlugin.TiffImageFile.format,
    BmpImagePlugin.BmpImageFile.format,
    PpmImagePlugin.PpmImageFile.format,
    Jpeg2KImagePlugin.Jpeg2KImageFile.format,
    AvifImagePlugin.AvifImageFile.format,
)
# Pillow refuses a PNG with more text in one block than a megabyte, though the text is not looked at here.
# What all blocks may take together, 64 MB, still bounds the memory.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY

HEAD_BYTES = 64
NOT_AN_IMAGE = "not an image"
RAW = "camera raw file: develop it to JPEG or TIFF"
PREVIEW = "TIFF whose first page is a preview: save the picture alone"
_UNKNOWN_TIFF = "TIFF of an unknown kind: convert it"
_HEIC_UNREAD = "HEIC: install cnnimretrieval[heif] or convert it"
_AVIF_UNREAD = "AVIF: install a Pillow that reads it or convert it"
_JPEG_XL = "JPEG XL: convert it to JPEG or PNG"

_TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0")
_BIG_TIFF = 43
_JPEG_XL_HEADS = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_AVIF_BRANDS = {b"avif", b"avis"}
# Raw files that are no TIFFs, or name their maker beside TIFF's own mark: where, and what stands there.
_RAW_HEADS = (
    *((0, mark) for mark in (b"FUJIFILMCCD-RAW", b"FOVb", b"\0MRM", b"IIRO", b"IIRS", b"MMOR", b"IIU\0")),
    *((6, b"HEAPCCDR"), (8, b"CR\2"), (4, b"ftypcrx ")),
)
_RAW_SUFFIXES = (
    *(".3fr", ".arw", ".cr2", ".dcr", ".dng", ".erf", ".fff", ".iiq", ".k25", ".kdc", ".mef", ".mos", ".nef"),
    *(".nrw", ".orf", ".pef", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw"),
)
_SUBFILE_TYPE, _OLD_SUBFILE_TYPE, _WIDTH, _HEIGHT, _COLOURS, _MAKE = 254, 255, 256, 257, 262, 271
_SUB_DIRECTORIES, _DNG_VERSION = 330, 50706
_SENSOR_COLOURS = (32803, 34892)  # a filter's colour a pixel; linear raw
# More pages than any raw file has.
_MAX_PAGES = 16


def formats_for(head: bytes) -> tuple[Sequence[str], str]:
    """Pillow's names of the formats to try on a file that begins like this; or none, and the reason."""
    if any(head.startswith(mark, start) for start, mark in _RAW_HEADS):
        return (), RAW
    if head.startswith(_JPEG_XL_HEADS):
        return (), _JPEG_XL
    if _is_heic(head):
        return (("HEIF",), "") if _reads_heif() else ((), _HEIC_UNREAD)
    return _FORMATS, ""


def reason_unread(head: bytes) -> str:
    """Why no format fits a file that begins like this."""
    if _is_heic(head):
        return "HEIC: damaged"
    if _brands(head) & _AVIF_BRANDS:
        return _AVIF_UNREAD
    return _UNKNOWN_TIFF if head.startswith(_TIFF_HEADS) else NOT_AN_IMAGE


def reason_not_whole(path: Path, head: bytes) -> str:
    """Why the picture that Pillow finds first in a file is not its photo, or nothing.

    Cameras' raw files are mostly TIFFs whose first page is a small preview; it passes for a photo of its own.
    They are known by what they say: a page of sensor values, DNG's version, a first page that is called
    reduced or is smaller than what its sub-directories hold. Some leave all that to the maker's own notes; of
    these the file's suffix tells.
    """
    if not head.startswith(_TIFF_HEADS):
        return ""
    if path.suffix.lower() in _RAW_SUFFIXES:
        return RAW
    with suppress(Exception):  # of a damaged file Pillow tells the damage
        pages = list(islice(_pages(path), _MAX_PAGES))
        for page in chain.from_iterable((page, *inner) for page, inner in pages):
            if _DNG_VERSION in page or page.get(_COLOURS) in _SENSOR_COLOURS:
                return RAW
        first, inner = pages[0]
        reduced = int(first.get(_SUBFILE_TYPE, 0)) & 1 or first.get(_OLD_SUBFILE_TYPE) == 2
        if reduced or any(_area(page) > _area(first) for page in inner):
            return RAW if _MAKE in first else PREVIEW
    return ""


def _is_heic(head: bytes) -> bool:
    brands = _brands(head)
    return bool(brands & _HEIF_BRANDS) and not brands & _AVIF_BRANDS


def _brands(head: bytes) -> set[bytes]:
    """What an ISO media file says that it can be read as."""
    if head[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[8:12], *(head[start : start + 4] for start in range(16, end - 3, 4))}


@cache
def _reads_heif() -> bool:
    try:
        import pillow_heif
    except ImportError:
        return False
    # An embedded thumbnail is another picture than the photo.
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
    return True


def _pages(path: Path) -> Iterator[tuple[ImageFileDirectory_v2, Sequence[ImageFileDirectory_v2]]]:
    """The pages of a TIFF, each with its sub-directories."""
    with path.open("rb") as file:
        head = file.read(16)
        head = head if head[2] == _BIG_TIFF else head[:8]

        def directory(offset: int) -> ImageFileDirectory_v2:
            found = ImageFileDirectory_v2(head)
            file.seek(offset)
            found.load(file)
            return found

        offset = ImageFileDirectory_v2(head).next
        while offset:
            page = directory(offset)
            inner = page.get(_SUB_DIRECTORIES, ())
            offsets = inner if isinstance(inner, tuple) else (inner,)
            yield page, [directory(int(at)) for at in offsets[:_MAX_PAGES]]
            offset = page.next


def _area(page: ImageFileDirectory_v2) -> int:
    return int(page.get(_WIDTH, 0)) * int(page.get(_HEIGHT, 0))
