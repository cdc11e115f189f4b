"""What geometry teaches a local head: where photos see points, which places see one, what is a class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import networkx as nx
import numpy as np
from jaxtyping import Bool, Float, Int

from groundwork.orientation import upright_xy
from pairs.image_pairs import Candidates
from pairs.pair_table import PairTable
from sfm.model import load_model
from sfm.modelfolder import arrays_of_models


@dataclass(frozen=True, kw_only=True, eq=False)
class Observations:
    """The points that one photo sees, in all models that it is in.

    Attributes:
        xy: in px of the full upright photo.
        point: a number for each 3D point, of all models.
        length: photos that see the point.

    """

    xy: Float[np.ndarray, "k 2"]
    point: Int[np.ndarray, " k"]
    length: Int[np.ndarray, " k"]


NOTHING = Observations(xy=np.empty((0, 2)), point=np.empty(0, np.int64), length=np.empty(0, np.int64))


def model_files(sfm: Path, asked_by: str = "train.local") -> list[Path]:
    """The models of a reconstruction, by number.

    FileNotFoundError when there are none; it names the settings that asked for them.
    """
    files = arrays_of_models(sfm)
    if not files:
        raise FileNotFoundError(
            f"{asked_by}: expected a reconstruction, whose tracks teach, got none in {sfm}; set "
            f"{asked_by}.sfm, or the weights of what tracks teach to 0"
        )
    return files


def observations(files: Sequence[Path], table: PairTable) -> Mapping[int, Observations]:
    """The observations of every row of the pair table that is in a model."""
    row_of = {name: row for row, name in enumerate(table.names)}
    parts: dict[int, list[Observations]] = {}
    num_points = 0
    for path in files:
        model = load_model(path)
        # A track that is seen twice in a photo is seen by one photo.
        pairs = np.unique(np.column_stack([model.track_point, model.track_image]), axis=0)
        length = np.bincount(pairs[:, 0], minlength=model.num_points)
        for number, (name, seen) in enumerate(zip(model.names, model.observations_by_image(), strict=True)):
            row = row_of.get(name)
            if row is None:
                continue
            width, height = (int(side) for side in model.sizes[number])
            point = model.track_point[seen]
            found = Observations(
                xy=upright_xy(model.track_xy[seen], width, height, int(table.orientation[row])),
                point=point + num_points,
                length=length[point],
            )
            parts.setdefault(row, []).append(found)
        num_points += model.num_points
    return {
        row: Observations(
            **{
                name: np.concatenate([getattr(part, name) for part in found])
                for name in ("xy", "point", "length")
            }
        )
        for row, found in parts.items()
    }


def worth_attending(
    places: Int[np.ndarray, " k"], length: Int[np.ndarray, " k"], height: int, width: int, long_track: int
) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Places of a map that hold a point of a long track, and places that have no point at all around them.

    `places` are those of the points, -1 beyond the map, `length` the photos that see them. What holds points
    of short tracks only, or lies beside a point, is neither.
    """
    worth, near = np.zeros((height, width), np.bool_), np.zeros((height + 2, width + 2), np.bool_)
    inside = places >= 0
    rows, columns = np.divmod(places[inside], width)
    keep = length[inside] >= long_track
    worth[rows[keep], columns[keep]] = True
    for down in range(3):
        for right in range(3):
            near[rows + down, columns + right] = True
    return worth.ravel(), ~near[1:-1, 1:-1].ravel()


def shared_places(
    a: Observations, places_a: Int[np.ndarray, " k"], b: Observations, places_b: Int[np.ndarray, " m"]
) -> Int[np.ndarray, "p 2"]:
    """Places of two maps that see one point, each pair of places once."""
    shared, in_a, in_b = np.intersect1d(a.point, b.point, return_indices=True)
    found = np.column_stack([places_a[in_a], places_b[in_b]]).reshape(len(shared), 2)
    return np.unique(found[(found >= 0).all(axis=1)], axis=0)


def cluster_classes(table: PairTable) -> tuple[Int[np.ndarray, " n"], Bool[np.ndarray, "c c"]]:
    """The cluster of each image of the training places as its class, -1 for none; which classes compete.

    Classes of one place never do.
    """
    placed = (table.cluster >= 0) & ~table.is_val
    _, first, number = np.unique(table.cluster[placed], return_index=True, return_inverse=True)
    classes = np.full(table.num_images, -1, np.int64)
    classes[placed] = number
    place = table.place[placed][first]
    return classes, place[:, None] != place


def pseudo_classes(
    table: PairTable, candidates: Candidates, class_images: int, seed: int
) -> tuple[Int[np.ndarray, " n"], Bool[np.ndarray, "c c"]]:
    """A class for each image of the training places, -1 for none; and which classes compete.

    A cluster is a class; one of more than `class_images` images is split into communities of images that
    share points (Blondel et al., 2008), until about that size. Classes of one place never compete.
    """
    classes = np.full(table.num_images, -1, np.int64)
    places: list[int] = []
    for cluster in np.unique(table.cluster[(table.cluster >= 0) & ~table.is_val]):
        members = np.flatnonzero(table.cluster == cluster)
        parts = [set(members.tolist())]
        if len(members) > class_images:
            parts = _communities(members, candidates, class_images, seed)
        for part in parts:
            classes[sorted(part)] = len(places)
            places.append(int(table.place[members[0]]))
    of = np.array(places, np.int64)
    return classes, of[:, None] != of


def _communities(
    members: Int[np.ndarray, " m"], candidates: Candidates, class_images: int, seed: int
) -> list[set[int]]:
    graph: nx.Graph[int] = nx.Graph()
    graph.add_nodes_from(members.tolist())
    inside = np.isin(candidates.query, members) & np.isin(candidates.positive, members)
    for query, positive, weight in zip(
        candidates.query[inside].tolist(),
        candidates.positive[inside].tolist(),
        candidates.shared_points[inside].tolist(),
        strict=True,
    ):
        graph.add_edge(query, positive, weight=float(weight))
    found: list[set[int]] = [set(members.tolist())]
    # A finer and finer resolution, until the largest is small enough or nothing more comes apart.
    for resolution in (1.0, 2.0, 4.0, 8.0):
        parts = nx.community.louvain_communities(graph, weight="weight", resolution=resolution, seed=seed)
        found = sorted((set(part) for part in parts), key=min)
        if max(len(part) for part in found) <= class_images:
            break
    return found
