"""Stage: verified pairs to places: the connected components of the graph whose edges are trusted pairs."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int
from pydantic import Field
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sfm.matching import Matches
from sfm.settings import Settings
from sfm.store import key_of, load_done, mark_done, read_table, write_table

_VERSION = 1
# COLMAP's kinds of two-view geometry: calibrated, uncalibrated, planar, panoramic, either, several.
# Left out are none (1) and a watermark or frame that both photos carry (7).
TRUSTED_CONFIGS = (2, 3, 4, 5, 6, 8)


class GraphConfig(Settings):
    """Which verified pairs are trusted to show the same place."""

    min_inliers: int = Field(default=20, ge=7, description="verified matches of a trusted pair, at least")


@dataclass(frozen=True, kw_only=True)
class MatchGraph:
    """Trusted pairs and the places they connect.

    Attributes:
        pairs: trusted pairs: `image_id1, image_id2, origin, config, inliers, block, row, place`.
        folder: where their inliers are stored.
        place_of_image: of image_id r + 1 in row r; numbered by falling size, then first image; -1 for none.
        num_places: places have at least two images.
        key: changes with anything that changes a place.
        matches_key: of the matches: changes with anything that changes the inliers of a pair.

    """

    pairs: pd.DataFrame
    folder: Path
    place_of_image: Int[np.ndarray, " n"]
    num_places: int
    key: str
    matches_key: str


def build_graph(matches: Matches, num_images: int, out: Path, config: GraphConfig) -> MatchGraph:
    """Choose the trusted pairs and number the places; write `out`/graph.parquet.

    ValueError when no pair is trusted: then there is nothing to reconstruct.
    """
    started = time.perf_counter()
    key, path = key_of("graph", _VERSION, config, matches.key), out / "graph.parquet"
    trusted = (matches.pairs["inliers"] >= config.min_inliers) & matches.pairs["config"].isin(TRUSTED_CONFIGS)
    if not trusted.any():
        best = int(matches.pairs["inliers"].max()) if len(matches.pairs) else 0
        raise ValueError(
            f"matches: expected a verified pair with {config.min_inliers} inliers, got at most {best} in "
            f"{len(matches.pairs)} pairs; add photos that overlap, or lower graph.min_inliers"
        )
    pairs = matches.pairs[trusted].reset_index(drop=True)
    rows = pairs[["image_id1", "image_id2"]].to_numpy(dtype=np.int64) - 1
    place_of_image = number_places(rows, num_images)
    num_places = int(place_of_image.max()) + 1
    if not load_done(out, "graph", key):
        write_table(path, pairs.assign(place=place_of_image[rows[:, 0]]))
        facts = {"trusted pairs": len(pairs), "places": num_places}
        mark_done(out, "graph", key, seconds=time.perf_counter() - started, facts=facts, outputs=[path])
    return MatchGraph(
        pairs=read_table(path),
        folder=matches.folder,
        place_of_image=place_of_image,
        num_places=num_places,
        key=key,
        matches_key=matches.key,
    )


def number_places(pairs: Int[np.ndarray, "p 2"], num_images: int) -> Int[np.ndarray, " n"]:
    """Connected component of each row, numbered by falling size, then by first row; -1 for single rows."""
    links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(num_images, num_images))
    _, found = connected_components(links, directed=False)
    _, first, labels, sizes = np.unique(found, return_index=True, return_inverse=True, return_counts=True)
    number = np.empty(len(sizes), dtype=np.int64)
    number[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    number[sizes < 2] = -1
    place_of_image: Int[np.ndarray, " n"] = number[labels]
    return place_of_image
