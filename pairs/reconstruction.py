"""What a finished reconstruction hands to mining: its usable images, its models, the image pairs in them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int, UInt8

from groundwork.files import read_table
from groundwork.photo_source import SOURCE
from groundwork.progress import progress
from groundwork.random_streams import random_stream
from pairs.copies import copied_pairs
from pairs.image_pairs import Candidates, PairGeometry, merge_candidates
from pairs.nearest_cameras import near_camera_pairs
from pairs.same_place_negatives import ApartPairs, apart_pairs
from pairs.shared_points import CELLS, shared_points
from pairs.viewpoint import pair_candidates
from sfm.model import Model, load_model
from sfm.modelfolder import arrays_of_models


@dataclass(frozen=True, kw_only=True, eq=False)
class Reconstruction:
    """The usable images and where their models are; `dropped` counts the other files by reason.

    `images` are in the order of their `content`, the digest of a photo's bytes. All that is drawn or told
    apart by a row follows it: the same photos under other names are mined, held out and learned from alike.
    """

    images: pd.DataFrame
    model_files: tuple[Path, ...]
    dropped: Mapping[str, int]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the usable images: what rows of pairs refer to."""
        return tuple(self.images["name"])

    def models(self) -> Iterator[tuple[Path, Model, Int[np.ndarray, " n"]]]:
        """Each model, read when its turn comes: its file, itself, and the rows of its images here.

        ValueError when it has an image that is not usable.
        """
        names = pd.Index(self.images["name"])
        for path in self.model_files:
            model = load_model(path)
            rows = names.get_indexer(pd.Index(model.names))
            if (rows < 0).any():
                unknown = model.names[int(rows.argmin())]
                raise ValueError(
                    f"model {path}: expected usable images of images.parquet, got '{unknown}'; "
                    "reconstruct again"
                )
            yield path, model, rows

    def candidates(self) -> tuple[Candidates, dict[str, int]]:
        """Every pair that shares a track in a model; and how many were found in another model too."""
        return self._pairs(pair_candidates)

    def near_camera_pairs(self, count: int) -> Candidates:
        """Every image with the `count` cameras of its model that stand nearest to it."""
        return self._pairs(lambda model: near_camera_pairs(model, count))[0]

    @cached_property
    def near_copies(self) -> Int[np.ndarray, "c 2"]:
        """Pairs of rows, in one order each, that are near-copies of each other in some model."""
        none = np.empty((0, 2), np.int64)
        return np.concatenate([none, *(rows[copied_pairs(model)] for _, model, rows in self.models())])

    def copies_by_name(self) -> Mapping[str, frozenset[str]]:
        """The near-copies that each image has; images without one are left out."""
        found: dict[str, set[str]] = {}
        for one, other in self.near_copies.tolist():
            found.setdefault(self.names[one], set()).add(self.names[other])
            found.setdefault(self.names[other], set()).add(self.names[one])
        return {name: frozenset(copies) for name, copies in found.items()}

    def shared_points(self, pairs: PairGeometry) -> UInt8[np.ndarray, "p cells cells"]:
        """Where in each query the points lie that its positive sees, too: see `pairs.shared_points`.

        Of a pair that is in two models, the one in which it shares more counts.
        """
        counts = np.zeros((len(pairs), CELLS, CELLS), np.uint8)
        order = np.argsort(pairs.query, kind="stable")
        queries = pairs.query[order]
        orientation = self.images["orientation"].to_numpy()
        for _, model, rows in self.models() if len(pairs) else ():
            members = np.argsort(rows)
            start, stop = (np.searchsorted(queries, rows[members], side) for side in ("left", "right"))
            own = order[np.concatenate([np.arange(*edges) for edges in zip(start, stop, strict=True)])]
            query, positive = (
                members[_found(rows[members], ends[own])] for ends in (pairs.query, pairs.positive)
            )
            both = rows[positive] == pairs.positive[own]
            own = own[both]
            found = shared_points(model, orientation[rows], query[both], positive[both])
            more = found.sum(axis=(1, 2), dtype=int) > counts[own].sum(axis=(1, 2), dtype=int)
            counts[own[more]] = found[more]
        return counts

    def apart(self, per_query: int, seed: int) -> ApartPairs:
        """Up to `per_query` images for each image that its model proves to show something else."""
        queries, negatives = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for number, (_, model, rows) in enumerate(self.models() if per_query else ()):
            found = apart_pairs(model, per_query, random_stream(seed, "negatives of a place", number))
            queries.append(rows[found.query])
            negatives.append(rows[found.negative])
        query, negative = np.concatenate(queries), np.concatenate(negatives)
        order = np.lexsort((negative, query))
        return ApartPairs(query=query[order], negative=negative[order])

    def _pairs(self, of_model: Callable[[Model], Candidates]) -> tuple[Candidates, dict[str, int]]:
        models = progress(self.models(), desc="mine", unit="model", total=len(self.model_files))
        parts = [of_model(model).renumbered(rows) for _, model, rows in models]
        merged = merge_candidates(parts)
        return merged, {"pair: seen in another model too": sum(map(len, parts)) - len(merged)}


def _found(rising: Int[np.ndarray, " n"], rows: Int[np.ndarray, " p"]) -> Int[np.ndarray, " p"]:
    """Where each of `rows` stands in `rising`, or another one where it does not."""
    found: Int[np.ndarray, " p"] = np.searchsorted(rising, rows).clip(max=len(rising) - 1)
    return found


def read_reconstruction(sfm_dir: Path) -> Reconstruction:
    """The images and model files in `sfm_dir`; FileNotFoundError when there is no finished reconstruction."""
    path = sfm_dir / "images.parquet"
    if not path.is_file() or not (sfm_dir / SOURCE).is_file():
        raise FileNotFoundError(
            f"mine {sfm_dir}: expected a reconstruction with images.parquet and {SOURCE}, got none; "
            "run reconstruct first"
        )
    files = read_table(path)
    # Tables that others wrote may lack the digests.
    files = files.assign(content=files["sha256" if "sha256" in files else "name"])
    is_usable = files["status"].isin(("registered", "unregistered"))
    others = files["status"][~is_usable].value_counts()
    return Reconstruction(
        images=files[is_usable].sort_values("content", ignore_index=True),
        model_files=tuple(arrays_of_models(sfm_dir)),
        dropped={f"image: {status}": int(count) for status, count in sorted(others.items())},
    )
