"""Photos to measure on: a part of a folder, shrunk, or re-photographed many times, the same every time."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from experiments.benchmarks.measuring.measure import add_kind, arguments
from groundwork.files import atomic_path

_SUFFIXES = {".jpg", ".jpeg", ".png"}


def photo_files(photos: Path) -> list[Path]:
    """Photo files below a folder, by name. ValueError when there is none."""
    found = sorted(path for path in photos.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    if not found:
        raise ValueError(f"photos {photos}: expected JPEG or PNG files, got none; give another folder")
    return found


def shrunk(photos: Path, target: Path, count: int, longest_px: int) -> Path:
    """Copies of the first `count` photos, shrunk to `longest_px`, without EXIF; returns `target`."""
    for path in photo_files(photos)[:count]:
        copy = target / f"{path.stem}.jpg"
        if not copy.exists():
            with Image.open(path) as image:
                upright = ImageOps.exif_transpose(image).convert("RGB")
            upright.thumbnail((longest_px, longest_px), Image.Resampling.LANCZOS)
            _save(upright, copy, quality=95)
    return target


def one_place(
    doc: str | None, words: Sequence[str] | None, *, side: int, repeats: int
) -> tuple[argparse.Namespace, Path]:
    """Parse the command line of a benchmark on one place; return it with the folder of the shrunk photos.

    `side` (px) and `repeats` are what the command line says by default.
    """
    parser = arguments(doc)
    parser.add_argument("photos", type=Path, help="folder of one place's photos")
    parser.add_argument("--out", type=Path, required=True, help="scratch folder")
    parser.add_argument("--count", type=int, default=30, help="photos used [%(default)s]")
    parser.add_argument("--side", type=int, default=side, help="longest side in pixels [%(default)s]")
    parser.add_argument("--repeats", type=int, default=repeats, help="rounds [%(default)s]")
    add_kind(parser)
    given = parser.parse_args(words)
    return given, shrunk(given.photos, given.out / f"photos-{given.side}", given.count, given.side)


def rephotographed(
    photos: Path, target: Path, *, sources: int, views: int, longest_px: int, seed: int
) -> Path:
    """`views` differently cut, tilted, scaled and compressed copies of `sources` photos; returns `target`.

    Sources are drawn by `seed`; the sources of a smaller number are a part of those of a larger one. A copy
    depends on its source and number only, and those that exist are left alone.
    """
    files = photo_files(photos)
    order = np.random.default_rng(seed).permutation(len(files))[:sources].tolist()
    if len(order) < sources:
        raise ValueError(
            f"photos {photos}: expected at least {sources} photos, got {len(files)}; ask for less"
        )
    for number, row in enumerate(order):
        copies = [target / f"{number:05d}-{view:03d}.jpg" for view in range(views)]
        if all(copy.exists() for copy in copies):
            continue
        try:
            with Image.open(files[row]) as image:
                upright = ImageOps.exif_transpose(image).convert("RGB")
        except (OSError, UnidentifiedImageError):
            continue  # broken photos are nothing to measure on
        for view, copy in enumerate(copies):
            rng = np.random.default_rng((seed, row, view))
            _save(_view(upright, longest_px, rng), copy, quality=int(rng.integers(70, 95)))
    return target


def _view(image: Image.Image, longest_px: int, rng: np.random.Generator) -> Image.Image:
    """Seven to ten tenths of each side, tilted by up to eight degrees, six to ten tenths of the size."""
    tilted = image.rotate(float(rng.uniform(-8, 8)), resample=Image.Resampling.BICUBIC)
    share = rng.uniform(0.7, 1.0, 2)
    size = (share * image.size).astype(int)
    corner = (rng.uniform(0, 1, 2) * (np.array(image.size) - size)).astype(int)
    cut = tilted.crop((*corner.tolist(), *(corner + size).tolist()))
    side = round(longest_px * float(rng.uniform(0.6, 1.0)))
    cut.thumbnail((side, side), Image.Resampling.LANCZOS)
    return cut


def _save(image: Image.Image, path: Path, quality: int) -> None:
    with atomic_path(path) as unfinished:
        image.save(unfinished, format="JPEG", quality=quality)


def names_below(photos: Path) -> Sequence[str]:
    """Names of the photo files, relative to their folder."""
    return [path.relative_to(photos).as_posix() for path in photo_files(photos)]
