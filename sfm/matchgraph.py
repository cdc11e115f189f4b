"""Stage: verified pairs to places: the connected components of the graph whose edges are trusted pairs."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Int, Int32
from pydantic import Field, field_validator, model_validator
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from groundwork.arrays import slices
from groundwork.files import read_table, write_table
from groundwork.keys import key_of, key_of_table
from groundwork.memory import give_back
from groundwork.plugins import Plugin, require_plugin
from groundwork.records import load_done, mark_done
from groundwork.settings import Settings
from sfm.featurestore import FeatureStore
from sfm.matching import Matches
from sfm.origins import yield_by_origin
from sfm.pair_filters.interface import (
    FILTERS,
    VerifiedPairs,
    apply_filters,
    load_filters,
)
from sfm.pair_table import ENDS, GEOMETRY_KINDS, TRUSTED, WATERMARK, image_rows, is_trusted
from sfm.printed import PrintedKeypoints
from sfm.splitting import split_places

if TYPE_CHECKING:
    import networkx as nx

_VERSION = 7
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
        for name in names:  # found out now, not when all is matched
            require_plugin(name, FILTERS)
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
        pairs: trusted pairs, with the columns `sfm.pair_table.TRUSTED`.
        folder: where their inliers are stored.
        place_of_image: of image_id r + 1 in row r; numbered by falling size, then first image by content; -1
            for none.
        num_places: places have at least two images.
        parts: `place, part, image_id` of the places that are reconstructed in parts, which overlap.
        printed: keypoints that lie on print; their matches count for nothing.
        key: changes with anything that changes a place or a part.
        matches_key: of the matches: changes with anything that changes the inliers of a pair.

    """

    pairs: pd.DataFrame
    folder: Path
    place_of_image: Int32[np.ndarray, " n"]
    num_places: int
    parts: pd.DataFrame
    printed: PrintedKeypoints
    key: str
    matches_key: str


def build_graph(
    matches: Matches,
    store: FeatureStore,
    sizes: Int[np.ndarray, "n 2"],
    rank: Int[np.ndarray, " n"],
    out: Path,
    config: GraphConfig,
) -> MatchGraph:
    """Choose the trusted pairs and number the places; write `out`/graph.parquet.

    `sizes` are the width and height of every image, `rank` its place in the order of content: neither places
    nor parts depend on the numbers of images. Pairs that a filter took out are listed in
    `out`/graph-dropped.parquet, with the filter and its reason; parts of large places in `out`/parts.parquet;
    keypoints that lie on print in `out`/graph-print.parquet.
    ValueError when no pair is trusted: then there is nothing to reconstruct.
    """
    started = time.perf_counter()
    filters = load_filters(config.filters)
    key = key_of(
        "graph", _VERSION, config, [each.key for each in filters], matches.key, key_of_table(matches.pairs)
    )
    outputs = [out / f"{name}.parquet" for name in ("graph", "graph-dropped", "parts", "graph-print")]
    if not load_done(out, "graph", key):
        facts = _make(matches, store, sizes, rank, outputs, config, filters)
        mark_done(out, "graph", key, seconds=time.perf_counter() - started, facts=facts, outputs=outputs)
    pairs = read_table(outputs[0])
    place_of_image = np.full(len(rank), -1, dtype=np.int32)
    for end in ENDS:
        place_of_image[pairs[end].to_numpy() - 1] = pairs["place"].to_numpy()
    return MatchGraph(
        pairs=pairs,
        folder=matches.folder,
        place_of_image=place_of_image,
        num_places=int(place_of_image.max()) + 1,
        parts=read_table(outputs[2]),
        printed=PrintedKeypoints.of_table(read_table(outputs[3])),
        key=key,
        matches_key=matches.key,
    )


def _make(
    matches: Matches,
    store: FeatureStore,
    sizes: Int[np.ndarray, "n 2"],
    rank: Int[np.ndarray, " n"],
    outputs: Sequence[Path],
    config: GraphConfig,
    filters: Sequence[Plugin],
) -> dict[str, Any]:
    """Write the tables of trusted pairs, dropped pairs and parts; return the counts."""
    verified = VerifiedPairs(
        pairs=_trusted(matches.pairs, config),
        tried=matches.pairs,
        sizes=sizes,
        matches=matches.folder,
        store=store,
        min_inliers=config.min_inliers,
    )
    give_back()
    verified, dropped = apply_filters(filters, verified)
    pairs = verified.pairs
    if not len(pairs):
        raise ValueError(
            f"pair filters: expected to keep a pair, got all {len(dropped)} dropped; change graph.filters"
        )
    place_of_image = _places(pairs, rank)
    parts = split_places(pairs, place_of_image, rank, config.max_component, config.overlap)
    printed = verified.printed.table()
    pairs = pairs.assign(place=place_of_image[image_rows(pairs)[:, 0]])
    tables = (pairs, dropped, parts, printed)
    give_back()
    for path, table in zip(outputs, tables, strict=True):
        write_table(path, table)
    give_back()
    return {
        "trusted pairs": len(pairs),
        "places": int(place_of_image.max()) + 1,
        "parts of large places": len(parts[["place", "part"]].drop_duplicates()),
        "yield": yield_by_origin(matches.pairs, pairs),
        "dropped pairs": _counted(matches.pairs, dropped, config),
    }


def _trusted(pairs: pd.DataFrame, config: GraphConfig) -> pd.DataFrame:
    trusted = is_trusted(pairs, config.min_inliers)
    if not trusted.any():
        best = int(pairs["inliers"].max()) if len(pairs) else 0
        raise ValueError(
            f"matches: expected a verified pair with {config.min_inliers} inliers, got at most {best} in "
            f"{len(pairs)} pairs; add photos that overlap, or lower graph.min_inliers"
        )
    # Column by column: pandas would make numbers of rows on the way, 80 MB of ten million pairs.
    rows = trusted.to_numpy()
    return pd.DataFrame({name: pairs[name].array[rows] for name in map(str, pairs)}, copy=False)


def _counted(tried: pd.DataFrame, dropped: pd.DataFrame, config: GraphConfig) -> dict[str, int]:
    """Pairs that are not trusted although their matches are many, by who says so and why."""
    marks = (tried["geometry_kind"] == WATERMARK) & (tried["inliers"] >= config.min_inliers)
    counts = (dropped["filter"] + ": " + dropped["reason"]).value_counts().sort_index()
    found = {"verification: watermark": int(marks.sum())} | {str(why): int(n) for why, n in counts.items()}
    return {why: number for why, number in found.items() if number}


def _places(pairs: pd.DataFrame, rank: Int[np.ndarray, " n"]) -> Int32[np.ndarray, " n"]:
    """`number_places` of the images in the order of content, for the images by id."""
    rank_of, ends = rank.astype(np.int32), image_rows(pairs)
    for part in slices(len(ends), _BLOCK):  # in place: of ten million pairs a copy takes 80 MB
        ends[part] = rank_of[ends[part]]
    by_rank = number_places(ends, len(rank))
    place_of_image: Int32[np.ndarray, " n"] = by_rank[rank]
    return place_of_image


def number_places(pairs: Int[np.ndarray, "p 2"], num_images: int) -> Int32[np.ndarray, " n"]:
    """Connected component of each row, numbered by falling size, then by first row; -1 for single rows."""
    found = np.arange(num_images, dtype=np.int32)
    # Block by block, what is connected so far taken for one: the search itself takes 30 bytes a pair.
    for part in slices(len(pairs), _BLOCK):
        ends = found[pairs[part]]
        ones = np.ones(len(ends), dtype=np.int8)
        links = coo_array((ones, (ends[:, 0], ends[:, 1])), shape=(num_images, num_images))
        found = connected_components(links, directed=False)[1][found]
    _, first, labels, sizes = np.unique(found, return_index=True, return_inverse=True, return_counts=True)
    number = np.empty(len(sizes), dtype=np.int32)
    number[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    number[sizes < 2] = -1
    place_of_image: Int32[np.ndarray, " n"] = number[labels]
    return place_of_image


def as_networkx(folder: Path) -> "nx.Graph[str]":
    """The match graph of a finished reconstruction, to look into: bridges, triplets, whatever is asked of it.

    A node is a usable photo, by name, with `place` and `model` (-1: none) and `parts` (those of its place
    that it is reconstructed in, as "0 2"; "" where the place stays whole). An edge is a trusted pair with
    `weight` (its inliers), `geometry_kind` (COLMAP's, by name) and `origin` (who proposed it). All are plain
    values, as `networkx.write_graphml` wants them. FileNotFoundError when `folder`, that of a
    reconstruction, has no graph yet.
    """
    import networkx as nx  # takes a while to load, and no stage needs it

    pairs, parts = read_table(folder / "graph.parquet", list(TRUSTED)), read_table(folder / "parts.parquet")
    photos = read_table(folder / "collection.parquet", ["name", "image_id"])
    fates = read_table(folder / "images.parquet", ["name", "place", "model"])
    usable = photos[photos["image_id"] > 0].merge(fates, on="name").sort_values("image_id")
    own_parts = parts.astype({"part": str}).groupby("image_id")["part"].agg(" ".join)
    graph: nx.Graph[str] = nx.Graph()
    usable["parts"] = [own_parts.get(image_id, "") for image_id in usable["image_id"]]
    for photo, place, model, parts_of in usable[["name", "place", "model", "parts"]].to_numpy().tolist():
        graph.add_node(photo, place=place, model=model, parts=parts_of)
    name = usable.set_index("image_id")["name"]
    ends = zip(*(name[pairs[end]] for end in ENDS), strict=True)
    told = zip(pairs["inliers"], pairs["geometry_kind"], pairs["origin"].astype(str), strict=True)
    for (one, two), (inliers, kind, origin) in zip(ends, told, strict=True):
        graph.add_edge(one, two, weight=int(inliers), geometry_kind=GEOMETRY_KINDS[kind], origin=origin)
    return graph
