"""Places as folders of links, to look at: the photos of each in a folder of its own; nothing is copied."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from groundwork.files import read_table, write_json
from groundwork.photo_source import read_source

_MARK = "places.json"
_PREFIX = "place-"
# In bytes: file systems allow 255.
_LONGEST_NAME = 240


@dataclass(frozen=True, kw_only=True)
class PlaceFolders:
    """How many folders there are, the links in them, and what kind of link it is."""

    places: int
    photos: int
    kind: str


def write_place_folders(sfm: Path, out: Path) -> PlaceFolders:
    """Write `out`/place-NNN with a link to every photo of the place; those with most photos come first.

    A folder of this function is written anew. Links are symbolic, or hard ones where the system refuses
    those. ValueError when `out` holds anything else or the system makes neither kind of link,
    FileNotFoundError when nothing was reconstructed.
    """
    if not (sfm / "images.parquet").is_file():
        raise FileNotFoundError(
            f"places: expected a folder that reconstruction finished, got {sfm}; run reconstruct first"
        )
    images = read_table(sfm / "images.parquet")
    photos = read_source(sfm).folder
    images = images[images["place"] >= 0]
    _clear(out)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / _MARK, {"version": 1, "sfm": os.path.abspath(sfm)})
    kinds, number = set(), 0
    counts = images["place"].value_counts(sort=False).sort_index(kind="stable")
    falling = counts.index[np.argsort(-counts.to_numpy(), kind="stable")]
    width = max(3, len(str(len(falling))))
    for number, place in enumerate(falling, start=1):
        folder = out / f"{_PREFIX}{number:0{width}d}"
        folder.mkdir()
        names = sorted(images["name"][images["place"] == place])
        for name, link in zip(names, _link_names(names), strict=True):
            kinds.add(_link(photos / name, folder / link))
    return PlaceFolders(places=number, photos=len(images), kind=" and ".join(sorted(kinds)))


def _link_names(names: list[str]) -> Iterator[str]:
    """A file name for every path, as short as tells them apart: folders are joined by two underscores."""
    taken: set[str] = set()
    for name in names:
        flat = name.replace("/", "__")
        while len(os.fsencode(flat)) > _LONGEST_NAME:
            flat = flat[len(flat) // 8 + 1 :]
        stem, dot, ending = flat.rpartition(".")
        link, copy = flat, 2
        # Systems that do not tell capitals apart would take two names for one.
        while link.casefold() in taken:
            link = f"{stem}-{copy}{dot}{ending}" if dot else f"{flat}-{copy}"
            copy += 1
        taken.add(link.casefold())
        yield link


def _link(photo: Path, link: Path) -> str:
    try:
        link.symlink_to(photo)
        return "symbolic links"
    except (OSError, NotImplementedError) as refused:
        # Windows asks for a privilege; some file systems have none.
        try:
            os.link(photo, link)
        except OSError as error:
            raise ValueError(
                f"places: expected leave to link to {photo} in {link.parent}, got '{refused}' for a symbolic "
                f"and '{error}' for a hard link; on Windows turn on developer mode, or take an --out on the "
                "disk of the photos"
            ) from error
        return "hard links"


def _clear(out: Path) -> None:
    """Take away what this module wrote before; ValueError when there is anything else."""
    if not out.exists():
        return
    foreign = [path for path in out.iterdir() if path.name not in (_MARK, ".lock")]
    if foreign and not (out / _MARK).is_file():
        raise ValueError(
            f"places: expected an empty folder or one of places, got {out} with {foreign[0].name}; "
            "take another"
        )
    for folder in foreign:
        if not (folder.name.startswith(_PREFIX) and folder.is_dir() and not folder.is_symlink()):
            raise ValueError(f"places: expected nothing but places in {out}, got {folder.name}; move it away")
        for link in folder.iterdir():
            if not link.is_symlink() and link.stat().st_nlink < 2:
                raise ValueError(f"places: expected links in {folder}, got {link.name}; move it away")
            link.unlink()
        folder.rmdir()
