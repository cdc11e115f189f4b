"""What mining hands upwards: the PairTable of a collection, and the files that hold it.

This is the waist between geometry and learning: whoever trains or evaluates needs these records only.
"""

from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int, UInt8

from groundwork.arrays import Layout, freeze_arrays
from groundwork.files import atomic_path, open_array, read_table, write_table
from pairs.image_pairs import Candidates, PairGeometry, Positives
from pairs.same_place_negatives import ApartPairs, no_pairs
from pairs.shared_points import CELLS

_SHARED_POINTS = "shared_points.npy"
_LAYOUT: Layout = {
    "cluster": (np.int64, ("n",)),
    "place": (np.int64, ("n",)),
    "is_val": (np.bool_, ("n",)),
    "is_choosing": (np.bool_, ("n",)),
    "sizes": (np.int64, ("n", 2)),
    "orientation": (np.int64, ("n",)),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class PairTable:
    """The usable images of a collection, with the pairs that geometry proves to match.

    Attributes:
        names: unique; POSIX paths below the collection's root. Rows are in the order of the photos' content
            where mining knows it: whoever draws rows draws the same photos under any names.
        cluster: the model that the image is registered in; -1 for none.
        place: component of verified matches; -1 where the image matched nothing. A place holds >= 0 clusters.
        is_val: held out from training, with its place; where others are, a share of the images without a
            place is, too.
        is_choosing: held out to choose by, not to report of; all False where the places are too few.
        sizes: width, height of the stored photo in px.
        orientation: EXIF value 1..8 that turns the stored photo upright.
        positives: rows refer to `names`; query and positive are of one place.
        apart: pairs of one place that geometry proves to show different things; none unless asked for.
        shared_points: of each positive pair, see `pairs.shared_points`; None where it is not known.

    """

    names: tuple[str, ...]
    cluster: Int[np.ndarray, " n"]
    place: Int[np.ndarray, " n"]
    is_val: Bool[np.ndarray, " n"]
    is_choosing: Bool[np.ndarray, " n"]
    sizes: Int[np.ndarray, "n 2"]
    orientation: Int[np.ndarray, " n"]
    positives: Positives
    apart: ApartPairs = field(default_factory=no_pairs)
    shared_points: UInt8[np.ndarray, "p cells cells"] | None = None

    def __post_init__(self) -> None:
        freeze_arrays(self, "pair table", _LAYOUT, n=len(self.names))
        _check_images(self)
        _check_positives(self)
        _check_shared_points(self)

    @property
    def num_images(self) -> int:
        """Rows of the image arrays."""
        return len(self.names)

    def points_shared(self, query: int, positive: int) -> UInt8[np.ndarray, "cells cells"] | None:
        """Where the query sees points that its positive sees, too; None where it is not known."""
        if self.shared_points is None:
            return None
        order, codes = self._sorted_pairs
        found = int(np.searchsorted(codes, query * self.num_images + positive))
        if found == len(codes) or codes[found] != query * self.num_images + positive:
            return None
        counts: UInt8[np.ndarray, "cells cells"] = self.shared_points[order[found]]
        return counts

    @cached_property
    def _sorted_pairs(self) -> tuple[Int[np.ndarray, " p"], Int[np.ndarray, " p"]]:
        """The positives by (query, positive): their rows, and one number a pair."""
        codes = self.positives.query * self.num_images + self.positives.positive
        order = np.argsort(codes, kind="stable")
        return order, codes[order]

    def positives_of(self, split: Literal["train", "val"]) -> Positives:
        """The positives whose query, hence whose place, lies on this side of the split."""
        return self.positives.take(self.is_val[self.positives.query] == (split == "val"))


def write_pair_table(table: PairTable, folder: Path) -> None:
    """Write `images.parquet`, `positives.parquet`, `apart.parquet` and `shared_points.npy`, each atomically.

    The last only where it is known where points lie. Images are listed by name, with the `row` of each; pairs
    are in the order of the rows.
    """
    images = pd.DataFrame(
        {
            "name": pd.Series(table.names, dtype="str"),
            "cluster": table.cluster,
            "place": table.place,
            "split": np.where(table.is_val, "val", "train"),
            "choosing": table.is_choosing,
            "width": table.sizes[:, 0],
            "height": table.sizes[:, 1],
            "orientation": table.orientation,
            "row": np.arange(table.num_images),
        }
    )
    write_table(folder / "images.parquet", images.sort_values("name", ignore_index=True))
    positives = _frame_of(table.positives, table.names)
    positives.insert(2, "strategy", positives.pop("strategy"))
    write_table(folder / "positives.parquet", positives)
    labels = pd.Series(table.names, dtype="str")
    apart = {column: labels.iloc[getattr(table.apart, column)].to_numpy() for column in ("query", "negative")}
    write_table(folder / "apart.parquet", pd.DataFrame(apart, dtype="str"))
    if table.shared_points is None:
        (folder / _SHARED_POINTS).unlink(missing_ok=True)
    else:
        with atomic_path(folder / _SHARED_POINTS) as unfinished, unfinished.open("wb") as file:
            np.save(file, table.shared_points)


def read_pair_table(folder: Path) -> PairTable:
    """Read what `write_pair_table` wrote; ValueError when the files contradict themselves."""
    images = read_table(folder / "images.parquet")
    if "row" in images:  # or the order is that of the file
        images = images.sort_values("row")
    if "choosing" not in images:
        raise ValueError(
            f"pairs {folder}: expected an images.parquet of this version, got one without the column "
            "choosing; mine again"
        )
    names = tuple(images["name"])
    positives = _arrays_of(read_table(folder / "positives.parquet"), Positives, names)
    return PairTable(
        names=names,
        cluster=images["cluster"].to_numpy(),
        place=images["place"].to_numpy(),
        is_val=(images["split"] == "val").to_numpy(),
        is_choosing=images["choosing"].to_numpy(),
        sizes=images[["width", "height"]].to_numpy(),
        orientation=images["orientation"].to_numpy(),
        positives=Positives(**positives),
        apart=_read_apart(folder / "apart.parquet", names),
        shared_points=_read_shared_points(folder / _SHARED_POINTS),
    )


def _read_shared_points(path: Path) -> UInt8[np.ndarray, "p cells cells"] | None:
    return open_array(path, "mine again") if path.is_file() else None


def write_candidates(candidates: Candidates, names: tuple[str, ...], folder: Path) -> None:
    """Write `candidates.parquet`, atomically; `names` are those of the pair table."""
    write_table(folder / "candidates.parquet", _frame_of(candidates, names))


def read_candidates(folder: Path, names: tuple[str, ...]) -> Candidates:
    """Read what `write_candidates` wrote, as rows of `names`."""
    return Candidates(**_arrays_of(read_table(folder / "candidates.parquet"), Candidates, names))


def _read_apart(path: Path, names: tuple[str, ...]) -> ApartPairs:
    frame, index = read_table(path), pd.Index(names)
    return ApartPairs(query=_rows_of(frame["query"], index), negative=_rows_of(frame["negative"], index))


def _rows_of(names: pd.Series, index: pd.Index) -> Int[np.ndarray, " p"]:
    rows = index.get_indexer(pd.Index(names))
    if (rows < 0).any():
        unknown = names.iloc[int(np.argmin(rows))]
        raise ValueError(f"image pairs: expected names of images.parquet, got '{unknown}'; mine again")
    return rows


def _frame_of(pairs: PairGeometry, names: tuple[str, ...]) -> pd.DataFrame:
    frame = pd.DataFrame({field.name: getattr(pairs, field.name) for field in fields(pairs)})
    labels = pd.Series(names, dtype="str")
    return frame.assign(
        query=labels.iloc[pairs.query].to_numpy(), positive=labels.iloc[pairs.positive].to_numpy()
    )


def _arrays_of(
    frame: pd.DataFrame, record: type[PairGeometry], names: tuple[str, ...]
) -> dict[str, np.ndarray]:
    index = pd.Index(names)
    arrays = {}
    for column, (dtype, _) in record.LAYOUT.items():
        if column not in ("query", "positive"):
            arrays[column] = frame[column].to_numpy(dtype=dtype)
            continue
        arrays[column] = _rows_of(frame[column], index)
    return arrays


def _check_images(table: PairTable) -> None:
    names = table.names
    if len(set(names)) < len(names):
        raise ValueError("pair table: expected every name once, got one twice; drop repeats")
    clustered = table.cluster >= 0
    places_of_clusters = np.unique(
        np.stack([table.cluster[clustered], table.place[clustered]], axis=1), axis=0
    )
    placed = table.place >= 0
    sides_of_places = np.unique(np.stack([table.place, table.is_val], axis=1)[placed], axis=0)
    purposes_of_places = np.unique(np.stack([table.place, table.is_choosing], axis=1)[placed], axis=0)
    for rule, holds in (
        ("cluster and place >= -1", (table.cluster >= -1).all() and (table.place >= -1).all()),
        ("a place for every image of a cluster", (table.place[clustered] >= 0).all()),
        ("one place for every cluster", _all_different(places_of_clusters[:, 0])),
        ("every place on one side of the split", _all_different(sides_of_places[:, 0])),
        ("images to choose by to be held out", table.is_val[table.is_choosing].all()),
        ("places to choose by apart from others", _all_different(purposes_of_places[:, 0])),
        ("sizes > 0", (table.sizes > 0).all()),
        ("orientations in 1..8", ((table.orientation >= 1) & (table.orientation <= 8)).all()),
    ):
        if not holds:
            raise ValueError(f"pair table: expected {rule}, got other images; mine again")


def _check_shared_points(table: PairTable) -> None:
    counts = table.shared_points
    if counts is not None and (
        counts.dtype != np.uint8 or counts.shape != (len(table.positives), CELLS, CELLS)
    ):
        raise ValueError(
            f"pairs {_SHARED_POINTS}: expected {CELLS} x {CELLS} counts for each of {len(table.positives)} "
            f"positives, got {counts.dtype} of shape {counts.shape}; mine again"
        )


def _check_positives(table: PairTable) -> None:
    query, positive = table.positives.query, table.positives.positive
    rows = np.concatenate([query, positive])
    if rows.size and (rows.min() < 0 or rows.max() >= table.num_images):
        raise ValueError(
            f"pair table: expected pairs of rows 0..{table.num_images - 1}, got {rows.min()}..{rows.max()}; "
            "number the pairs by the table's names"
        )
    if (table.place[query] < 0).any() or (table.place[query] != table.place[positive]).any():
        raise ValueError("pair table: expected the two images of a pair in one place, got two; mine again")
    apart = table.place[table.apart.query], table.place[table.apart.negative]
    if (apart[0] != apart[1]).any():
        raise ValueError("pair table: expected apart pairs of one place, got two; mine again")


def _all_different(values: np.ndarray) -> bool:
    return len(np.unique(values)) == len(values)
