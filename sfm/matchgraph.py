"""Stage: verified pairs to places: the connected components of the graph whose edges are trusted pairs."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int, Int32
from pydantic import Field, field_validator, model_validator
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from groundwork.files import read_table, write_table
from groundwork.keys import key_of, key_of_table
from groundwork.memory import give_back
from groundwork.records import load_done, mark_done
from groundwork.settings import Settings
from sfm.featurestore import FeatureStore
from sfm.matching import Matches
from sfm.origins import yield_by_origin
from sfm.pair_filters.interface import BUILT_IN, NamedFilter, VerifiedPairs, apply_filters, load_filters
from sfm.splitting import split_places

_VERSION = 5
# COLMAP's kinds of two-view geometry: calibrated, uncalibrated, planar, panoramic, either, several, of rigs.
# Left out are none (1) and a watermark or frame that both photos carry (7).
TRUSTED_CONFIGS = (2, 3, 4, 5, 6, 8, 9)
WATERMARK = 7
# Pairs that are connected at a time.
_BLOCK = 1 << 20


class GraphConfig(Settings):
    """Which verified pairs are trusted to show the same place."""

    min_inliers: int = Field(default=20, ge=7, description="verified matches of a trusted pair, at least")
    filters: tuple[str, ...] = Field(
        default=("stationary", "doppelgangers"),
        description="what takes pairs out, in order: built-in names, entry points of other packages in the "
        "group cnnimretrieval.pair_filters, or path/to/file.py:function",
    )
    max_component: int = Field(
        default=500, ge=20, description="a place of more images is reconstructed in parts; see overlap"
    )
    overlap: int = Field(
        default=50, ge=0, description="images that such a part takes over from its neighbours, at most"
    )

    @field_validator("filters")
    @classmethod
    def _filters_exist(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        # Found out now, not when all is matched. Our own need no loading, which settings do when they start.
        load_filters(name for name in names if name not in BUILT_IN)
        return names

    @model_validator(mode="after")
    def _check_overlap(self) -> "GraphConfig":
        if self.overlap > self.max_component // 2:
            raise ValueError(
                f"graph.overlap: expected at most half of max_component ({self.max_component}), got "
                f"{self.overlap}; lower it"
            )
        return self


@dataclass(frozen=True, kw_only=True)
class MatchGraph:
    """Trusted pairs and the places they connect.

    Attributes:
        pairs: trusted pairs: `image_id1, image_id2, origin, config, inliers, block, row, place`.
        folder: where their inliers are stored.
        place_of_image: of image_id r + 1 in row r; numbered by falling size, then first image; -1 for none.
        num_places: places have at least two images.
        parts: `place, part, image_id` of the places that are reconstructed in parts, which overlap.
        key: changes with anything that changes a place or a part.
        matches_key: of the matches: changes with anything that changes the inliers of a pair.

    """

    pairs: pd.DataFrame
    folder: Path
    place_of_image: Int32[np.ndarray, " n"]
    num_places: int
    parts: pd.DataFrame
    key: str
    matches_key: str


def build_graph(
    matches: Matches, store: FeatureStore, sizes: Int[np.ndarray, "n 2"], out: Path, config: GraphConfig
) -> MatchGraph:
    """Choose the trusted pairs and number the places; write `out`/graph.parquet.

    `sizes` are the width and height of every image. Pairs that a filter took out are listed in
    `out`/graph-dropped.parquet, with the filter and its reason; parts of large places in `out`/parts.parquet.
    ValueError when no pair is trusted: then there is nothing to reconstruct.
    """
    started = time.perf_counter()
    filters = load_filters(config.filters)
    key = key_of(
        "graph", _VERSION, config, [each.key for each in filters], matches.key, key_of_table(matches.pairs)
    )
    outputs = [out / f"{name}.parquet" for name in ("graph", "graph-dropped", "parts")]
    if not load_done(out, "graph", key):
        facts = _make(matches, store, sizes, outputs, config, filters)
        mark_done(out, "graph", key, seconds=time.perf_counter() - started, facts=facts, outputs=outputs)
    pairs = read_table(outputs[0])
    place_of_image = number_places(_rows(pairs), len(sizes))
    return MatchGraph(
        pairs=pairs,
        folder=matches.folder,
        place_of_image=place_of_image,
        num_places=int(place_of_image.max()) + 1,
        parts=read_table(outputs[2]),
        key=key,
        matches_key=matches.key,
    )


def _make(
    matches: Matches,
    store: FeatureStore,
    sizes: Int[np.ndarray, "n 2"],
    outputs: Sequence[Path],
    config: GraphConfig,
    filters: Sequence[NamedFilter],
) -> dict[str, Any]:
    """Write the tables of trusted pairs, dropped pairs and parts; return the counts."""
    verified = VerifiedPairs(
        pairs=_trusted(matches.pairs, config),
        tried=matches.pairs,
        sizes=sizes,
        matches=matches.folder,
        store=store,
    )
    give_back()
    pairs, dropped = apply_filters(filters, verified)
    if not len(pairs):
        raise ValueError(
            f"pair filters: expected to keep a pair, got all {len(dropped)} dropped; change graph.filters"
        )
    place_of_image = number_places(_rows(pairs), len(sizes))
    parts = split_places(pairs, place_of_image, config.max_component, config.overlap)
    tables = (pairs.assign(place=place_of_image[_rows(pairs)[:, 0]]), dropped, parts)
    for path, table in zip(outputs, tables, strict=True):
        write_table(path, table)
    return {
        "trusted pairs": len(pairs),
        "places": int(place_of_image.max()) + 1,
        "parts of large places": len(parts[["place", "part"]].drop_duplicates()),
        "yield": yield_by_origin(matches.pairs, pairs),
        "dropped pairs": _counted(matches.pairs, dropped, config),
    }


def _trusted(pairs: pd.DataFrame, config: GraphConfig) -> pd.DataFrame:
    trusted = (pairs["inliers"] >= config.min_inliers) & pairs["config"].isin(TRUSTED_CONFIGS)
    if not trusted.any():
        best = int(pairs["inliers"].max()) if len(pairs) else 0
        raise ValueError(
            f"matches: expected a verified pair with {config.min_inliers} inliers, got at most {best} in "
            f"{len(pairs)} pairs; add photos that overlap, or lower graph.min_inliers"
        )
    return pairs[trusted].reset_index(drop=True)


def _counted(tried: pd.DataFrame, dropped: pd.DataFrame, config: GraphConfig) -> dict[str, int]:
    """Pairs that are not trusted although their matches are many, by who says so and why."""
    marks = (tried["config"] == WATERMARK) & (tried["inliers"] >= config.min_inliers)
    counts = (dropped["filter"] + ": " + dropped["reason"]).value_counts().sort_index()
    found = {"verification: watermark": int(marks.sum())} | {str(why): int(n) for why, n in counts.items()}
    return {why: number for why, number in found.items() if number}


def _rows(pairs: pd.DataFrame) -> Int32[np.ndarray, "p 2"]:
    rows: Int32[np.ndarray, "p 2"] = pairs[["image_id1", "image_id2"]].to_numpy(dtype=np.int32) - np.int32(1)
    return rows


def number_places(pairs: Int[np.ndarray, "p 2"], num_images: int) -> Int32[np.ndarray, " n"]:
    """Connected component of each row, numbered by falling size, then by first row; -1 for single rows."""
    found = np.arange(num_images, dtype=np.int32)
    # Block by block, what is connected so far taken for one: the search itself takes 30 bytes a pair.
    for start in range(0, len(pairs), _BLOCK):
        ends = found[pairs[start : start + _BLOCK]]
        ones = np.ones(len(ends), dtype=np.int8)
        links = coo_array((ones, (ends[:, 0], ends[:, 1])), shape=(num_images, num_images))
        found = connected_components(links, directed=False)[1][found]
    _, first, labels, sizes = np.unique(found, return_index=True, return_inverse=True, return_counts=True)
    number = np.empty(len(sizes), dtype=np.int32)
    number[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    number[sizes < 2] = -1
    place_of_image: Int32[np.ndarray, " n"] = number[labels]
    return place_of_image
