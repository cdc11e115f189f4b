"""What one mapping task reconstructs: images, cameras and trusted pairs, with a key made of their content."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Int

from sfm.matchgraph import MatchGraph
from sfm.store import key_of


@dataclass(frozen=True, kw_only=True)
class Component:
    """Connected images that are reconstructed together.

    Attributes:
        place: number of the place it belongs to.
        part: number of the part of that place; 0 for a place that is whole.
        image_ids: rising; the component's own number of an image is its position here plus 1.
        camera_ids: the camera of each image, from 1; images of one camera share its intrinsics.
        pairs: its rows of `MatchGraph.pairs`, sorted by image ids.
        key: made of the content alone, not of the numbers that the collection gives to images and places:
            photos added elsewhere do not change it.

    """

    place: int
    part: int
    image_ids: tuple[int, ...]
    camera_ids: tuple[int, ...]
    pairs: pd.DataFrame
    key: str


def components(usable: pd.DataFrame, graph: MatchGraph, min_size: int) -> Iterator[Component]:
    """Yield the components of at least `min_size` images, by place and part.

    `usable` is `Collection.usable`.
    """
    # Photos that share maker, model, focal length and size share a camera; all others have one of their own.
    size = usable["width"].astype(str) + "x" + usable["height"].astype(str)
    shared = usable["camera"] + " " + size + " " + usable["focal_px"].fillna(0.0).astype(str)
    camera = shared.where(usable["camera"] != "", usable["image_id"].astype(str)).to_numpy()
    content = (usable["name"] + "\0" + usable["sha256"] + "\0" + shared).to_numpy()
    numbers = np.arange(graph.num_places + 1)
    order = np.argsort(graph.place_of_image, kind="stable")
    first_row = np.searchsorted(graph.place_of_image[order], numbers)
    pairs = graph.pairs.sort_values(["place", "image_id1", "image_id2"], kind="stable", ignore_index=True)
    first_pair = np.searchsorted(pairs["place"].to_numpy(), numbers)
    parts_of_place = _parts(graph)
    for place in range(graph.num_places):
        whole = order[first_row[place] : first_row[place + 1]]
        own = pairs.iloc[first_pair[place] : first_pair[place + 1]]
        for part, rows in enumerate(parts_of_place.get(place, [whole])):
            if len(rows) < min_size:
                continue
            inside = own if rows is whole else _among(own, rows)
            camera_ids = (pd.factorize(camera[rows])[0] + 1).tolist()
            yield Component(
                place=place,
                part=part,
                image_ids=tuple((rows + 1).tolist()),
                camera_ids=tuple(camera_ids),
                pairs=inside,
                key=key_of(content[rows].tolist(), camera_ids, _digest(inside, rows)),
            )


def _parts(graph: MatchGraph) -> dict[int, list[Int[np.ndarray, " k"]]]:
    found: dict[int, list[Int[np.ndarray, " k"]]] = {}
    columns = graph.parts[["place", "part", "image_id"]].to_numpy(dtype=np.int64)
    columns = columns[np.lexsort(columns.T[::-1])]
    starts = np.flatnonzero(np.diff(columns[:, :2], axis=0).any(axis=1)) + 1
    for part in np.split(columns, starts) if len(columns) else []:
        found.setdefault(int(part[0, 0]), []).append(part[:, 2] - 1)
    return found


def _among(pairs: pd.DataFrame, rows: Int[np.ndarray, " n"]) -> pd.DataFrame:
    return pairs[pairs["image_id1"].isin(rows + 1) & pairs["image_id2"].isin(rows + 1)]


def _digest(pairs: pd.DataFrame, rows: Int[np.ndarray, " n"]) -> str:
    """Of the pairs, in the component's own numbers: their images, kind of geometry and inliers."""
    ends = np.searchsorted(rows + 1, pairs[["image_id1", "image_id2"]].to_numpy())
    table = np.column_stack([ends, pairs[["config", "inliers"]].to_numpy()])
    return hashlib.sha256(np.ascontiguousarray(table, dtype="<i8").tobytes()).hexdigest()
