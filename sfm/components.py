"""What one mapping task reconstructs: images, cameras and trusted pairs, with a key made of their content."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Int, Int32, UInt64

from groundwork.keys import row_hashes
from groundwork.memory import give_back
from sfm.matchgraph import MatchGraph
from sfm.numbering import digests, rank_by_content
from sfm.pair_table import ENDS, NUMERIC
from sfm.printed import PrintedKeypoints


@dataclass(frozen=True, kw_only=True)
class Component:
    """Connected images that are reconstructed together.

    Attributes:
        place: number of the place it belongs to.
        part: number of the part of that place; 0 for a place that is whole.
        image_ids: in the order of their photos' digests; the component's own number of an image is its
            position here plus 1. The mapper, which prefers smaller numbers, does not see any other.
        camera_ids: the camera of each image, from 1; images of one camera share its intrinsics.
        pairs: its trusted pairs, sorted, with the columns `sfm.pair_table.NUMERIC`.
        printed: keypoints of its images that lie on print.
        key: made of the content alone, not of the numbers that the collection gives to images and places:
            photos added elsewhere do not change it.

    """

    place: int
    part: int
    image_ids: tuple[int, ...]
    camera_ids: tuple[int, ...]
    pairs: Int32[np.ndarray, "p 6"]
    printed: PrintedKeypoints
    key: str

    @property
    def pair_table(self) -> pd.DataFrame:
        """The pairs with the names of their columns, as `sfm.matching.read_inliers` takes them."""
        return pd.DataFrame(self.pairs, columns=NUMERIC)


def components(usable: pd.DataFrame, graph: MatchGraph, min_size: int) -> Iterator[Component]:
    """Yield the components of at least `min_size` images, by place and part.

    `usable` is `Collection.usable`.
    """
    camera, content = _cameras(usable)
    rank = rank_by_content(digests(usable["sha256"]))
    del usable  # of a million photos it takes 150 MB
    give_back()
    numbers = np.arange(graph.num_places + 1)
    order = np.argsort(graph.place_of_image, kind="stable")
    first_row = np.searchsorted(graph.place_of_image[order], numbers)
    pairs_in_order, first_pair = _pairs_by_place(graph)
    parts_of_place = _parts(graph)
    for place in range(graph.num_places):
        whole = order[first_row[place] : first_row[place + 1]]
        own = pairs_in_order[first_pair[place] : first_pair[place + 1]]
        for part, rows in enumerate(parts_of_place.get(place, [whole])):
            if len(rows) < min_size:
                continue
            rows = rows[np.argsort(rank[rows])]
            pairs = own if len(rows) == len(whole) else own[np.isin(own[:, :2], rows + 1).all(axis=1)]
            camera_ids = _numbered(camera[rows])
            printed = graph.printed.of_images(np.sort(rows) + 1)
            image_ids, keypoints = printed.table().to_numpy().T
            marks = np.column_stack([_own_numbers(rows, image_ids), keypoints])
            yield Component(
                place=place,
                part=part,
                image_ids=tuple((rows + 1).tolist()),
                camera_ids=tuple(camera_ids.tolist()),
                pairs=pairs,
                printed=printed,
                key=_key(content[rows], camera_ids, _own_numbers(rows, pairs[:, :2]), pairs, marks),
            )


def _pairs_by_place(graph: MatchGraph) -> tuple[Int32[np.ndarray, "p 6"], Int[np.ndarray, " k"]]:
    """The trusted pairs, sorted by place, then by images; and where each place starts, with the end."""
    place, one, two = (graph.pairs[name].to_numpy() for name in ("place", *ENDS))
    order = np.lexsort((two, one, place))
    pairs = np.empty((len(order), len(NUMERIC)), dtype=np.int32)
    for number, name in enumerate(NUMERIC):
        pairs[:, number] = graph.pairs[name].to_numpy()[order]
    return pairs, np.searchsorted(place, np.arange(graph.num_places + 1), sorter=order)


def _cameras(usable: pd.DataFrame) -> tuple[Int[np.ndarray, " n"], UInt64[np.ndarray, " n"]]:
    """A number for the camera of each photo; and a hash of its name, bytes, size and lens."""
    # Photos that share maker, model, focal length and size share a camera; all others have one of their own.
    lens = usable[["camera", "width", "height", "focal_px"]].fillna({"focal_px": 0.0})
    camera = pd.factorize(_hashes(lens))[0]
    own = usable["camera"].to_numpy() == ""
    camera[own] = len(usable) + np.flatnonzero(own)
    photo = pd.concat([usable[["name", "sha256"]], lens], axis=1)
    return camera, _hashes(photo)


def _hashes(table: pd.DataFrame) -> UInt64[np.ndarray, " n"]:
    return np.concatenate([np.empty(0, dtype=np.uint64), *row_hashes(table)])


def _numbered(labels: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The labels as 1, 2, ... in the order in which they come up first."""
    _, first, which = np.unique(labels, return_index=True, return_inverse=True)
    numbers: Int[np.ndarray, " n"] = (np.argsort(np.argsort(first)) + 1)[which]
    return numbers


def _own_numbers(rows: Int[np.ndarray, " n"], image_ids: Int[np.ndarray, "..."]) -> Int[np.ndarray, "..."]:
    """Where each image stands in `rows`, in whatever order these are."""
    order = np.argsort(rows)
    positions: Int[np.ndarray, ...] = order[np.searchsorted(rows, image_ids - 1, sorter=order)]
    return positions


def _key(
    content: UInt64[np.ndarray, " n"],
    camera_ids: Int[np.ndarray, " n"],
    ends: Int[np.ndarray, "p 2"],
    pairs: Int[np.ndarray, "p 6"],
    marks: Int[np.ndarray, "k 2"],
) -> str:
    """Of images, cameras, the pairs' kinds and inliers, and print, all in the component's own numbers."""
    table = np.column_stack([np.sort(ends, axis=1), pairs[:, 2:4]])
    table = table[np.lexsort((table[:, 1], table[:, 0]))]
    marks = marks[np.lexsort((marks[:, 1], marks[:, 0]))]
    digest = hashlib.sha256(np.array([len(content), len(pairs)], dtype="<i8").tobytes())
    for part in (content.astype("<u8"), *(part.astype("<i8") for part in (camera_ids, table, marks))):
        digest.update(part.tobytes())
    return digest.hexdigest()


def _parts(graph: MatchGraph) -> dict[int, list[Int[np.ndarray, " k"]]]:
    found: dict[int, list[Int[np.ndarray, " k"]]] = {}
    columns = graph.parts[["place", "part", "image_id"]].to_numpy(dtype=np.int64)
    columns = columns[np.lexsort(columns.T[::-1])]
    starts = np.flatnonzero(np.diff(columns[:, :2], axis=0).any(axis=1)) + 1
    for part in np.split(columns, starts) if len(columns) else []:
        found.setdefault(int(part[0, 0]), []).append(part[:, 2] - 1)
    return found
