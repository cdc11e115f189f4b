"""Near-copies in an extracted folder: looked for by descriptor, confirmed on the pixels of the photos."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, UInt8
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from groundwork.arrays import slices
from groundwork.descriptor_folder import DescriptorFolder
from groundwork.photos import MAX_MEGAPIXELS, THUMBNAIL_PX, UnusablePhoto, inspect_photo
from groundwork.shards import Selection
from groundwork.top_k import nearest_others
from sfm.nearcopies import same_picture

# The pixels decide; this only spares to look at photos that are nothing like each other. Copies of a quarter
# of the size, in JPEG quality 20, in gray, in other tones or mirrored had descriptors at least 0.28 alike,
# whitened ones at 362 px. Those of photos on their side are often less alike.
MIN_SCORE = 0.25
# Of each photo so many of the nearest are looked at.
_NEIGHBOURS = 16
# Pairs whose pixels are compared at a time.
_BLOCK = 4096


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A photo of a group; `score` is the inner product with the descriptor of the group's first photo."""

    name: str
    width: int
    height: int
    size_bytes: int
    score: float


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """Groups of near-copies, the largest photo of each first; the photos that could not be read any more."""

    groups: tuple[tuple[Copy, ...], ...]
    photos: int
    pairs_compared: int
    unreadable: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class _Look:
    """What is looked at of a photo."""

    width: int
    height: int
    size_bytes: int
    thumbnail: UInt8[np.ndarray, " p"]


def find_duplicates(found: DescriptorFolder, photos: Path, *, min_score: float = MIN_SCORE) -> Duplicates:
    """The near-copies among the whole photos of an extracted folder, whose files lie below `photos`.

    Two photos with descriptors at least `min_score` alike are compared pixel by pixel, in every turn: see
    `sfm.nearcopies`. A group's photos are all copies of its first one, not of each other alone. Photos that
    cannot be read are told and in no group.
    """
    rows, names = _whole(found)
    pairs = _alike(Selection(found.vectors, rows), min_score)
    looks, unreadable = _looks(names, np.unique(pairs), photos)
    groups = [
        tuple(_copy(member, group[0], names, looks, found, rows) for member in group)
        for group in _groups(pairs, looks, names)
    ]
    return Duplicates(
        groups=tuple(sorted(groups, key=lambda group: group[0].name)),
        photos=len(rows),
        pairs_compared=len(pairs),
        unreadable=tuple(unreadable),
    )


def alike_pairs(
    found: DescriptorFolder, *, min_score: float = MIN_SCORE
) -> tuple[list[str], Int[np.ndarray, "p 2"]]:
    """The names of the whole photos, and the pairs of them, each once, that are worth a look."""
    rows, names = _whole(found)
    return [str(name) for name in names], np.unique(_alike(Selection(found.vectors, rows), min_score), axis=0)


def _whole(found: DescriptorFolder) -> tuple[Int[np.ndarray, " m"], np.ndarray]:
    rows = found.whole_photos
    return rows, found.images["name"].to_numpy(dtype=object)[rows]


def _alike(vectors: Selection, min_score: float) -> Int[np.ndarray, "p 2"]:
    """Pairs of positions, the smaller first, whose descriptors are alike; some of them twice."""
    parts = [np.empty((0, 2), np.int64)]
    for first, ranking in nearest_others(vectors, _NEIGHBOURS):
        place, column = np.nonzero(ranking.scores >= min_score)
        pairs = np.sort(np.stack([place + first, ranking.rows[place, column]], axis=1), axis=1)
        parts.append(np.unique(pairs, axis=0))
    return np.concatenate(parts)


def _looks(
    names: np.ndarray, positions: Int[np.ndarray, " k"], photos: Path
) -> tuple[dict[int, _Look], list[tuple[str, str]]]:
    looks: dict[int, _Look] = {}
    unreadable: list[tuple[str, str]] = []
    for position in positions.tolist():
        path = photos / names[position]
        try:
            photo = inspect_photo(path, max_megapixels=MAX_MEGAPIXELS, min_side_px=1)
        except UnusablePhoto as finding:
            unreadable.append((names[position], str(finding)))
            continue
        looks[position] = _Look(
            width=photo.width,
            height=photo.height,
            size_bytes=path.stat().st_size,
            thumbnail=np.frombuffer(photo.thumbnail, np.uint8),
        )
    return looks, unreadable


def _groups(pairs: Int[np.ndarray, "p 2"], looks: dict[int, _Look], names: np.ndarray) -> Iterator[list[int]]:
    """Positions of each group, its largest photo first; of equals the one whose name comes first."""
    read = np.array([one in looks and two in looks for one, two in pairs.tolist()], dtype=np.bool_)
    pairs = np.unique(pairs[read], axis=0)
    pairs = pairs[_same(pairs[:, 0], pairs[:, 1], looks)]
    links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(names), len(names)))
    component = connected_components(links, directed=False)[1]
    together: dict[int, list[int]] = {}
    for position in np.unique(pairs).tolist():
        together.setdefault(int(component[position]), []).append(position)
    for members in together.values():
        members.sort(key=lambda at: (-looks[at].width * looks[at].height, -looks[at].size_bytes, names[at]))
        while len(members) > 1:
            first, others = members[0], np.array(members[1:])
            copied = _same(np.full(len(others), first), others, looks)
            if copied.any():
                yield [first, *others[copied].tolist()]
            members = others[~copied].tolist()


def _same(
    one: Int[np.ndarray, " p"], two: Int[np.ndarray, " p"], looks: dict[int, _Look]
) -> Bool[np.ndarray, " p"]:
    same = np.zeros(len(one), dtype=np.bool_)
    for part in slices(len(one), _BLOCK):
        same[part] = same_picture(_pixels(one[part].tolist(), looks), _pixels(two[part].tolist(), looks))
    return same


def _pixels(positions: Sequence[int], looks: dict[int, _Look]) -> np.ndarray:
    pixels = np.stack([looks[position].thumbnail for position in positions]).astype(np.float32)
    return pixels.reshape(-1, THUMBNAIL_PX, THUMBNAIL_PX)


def _copy(
    member: int,
    first: int,
    names: np.ndarray,
    looks: dict[int, _Look],
    found: DescriptorFolder,
    rows: Int[np.ndarray, " m"],
) -> Copy:
    look = looks[member]
    score = float(np.asarray(found.vectors[rows[member]]) @ np.asarray(found.vectors[rows[first]]))
    return Copy(
        name=str(names[member]),
        width=look.width,
        height=look.height,
        size_bytes=look.size_bytes,
        score=score,
    )
