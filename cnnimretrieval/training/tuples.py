"""Tuples of an epoch: which queries, positives and hard negatives, and how queries are shown."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int
from pydantic import Field, model_validator

from cnnimretrieval.descriptors.distort import RelightConfig, Relit
from cnnimretrieval.descriptors.images import Box, ImageRequest
from groundwork.orientation import upright_size
from groundwork.settings import Settings
from pairs.negatives import HardNegatives
from pairs.pair_table import PairTable


class QueryConfig(Settings):
    """How training queries are made to look like what people search with: details, tilted, relit."""

    distorted_share: float = Field(default=0.0, ge=0, le=1, description="of the queries; 0 as published")
    min_side: float = Field(default=0.35, gt=0, le=1, description="of the crop, as a share of the photo's")
    max_side: float = Field(default=0.9, gt=0, le=1, description="of the crop, as a share of the photo's")
    max_rotation_deg: float = Field(default=8.0, ge=0, le=45, description="either way")
    relight: RelightConfig = RelightConfig()

    @model_validator(mode="after")
    def _sides_in_order(self) -> "QueryConfig":
        if self.min_side > self.max_side:
            raise ValueError(
                f"query: expected min_side <= max_side, got {self.min_side:g} and {self.max_side:g}; "
                "swap them"
            )
        return self


@dataclass(frozen=True, kw_only=True, eq=False)
class Collection:
    """The photos of a pair table: where they lie, and how each is asked for."""

    photos: Path
    table: PairTable

    def whole(self, row: int) -> ImageRequest:
        """The photo of an image as it is."""
        return ImageRequest(path=self.photos / self.table.names[row])

    def distorted(self, row: int, config: QueryConfig, rng: np.random.Generator) -> ImageRequest:
        """A detail of the photo as somebody might search with it."""
        width, height = self.table.sizes[row]
        size = upright_size(int(width), int(height), int(self.table.orientation[row]))
        return ImageRequest(
            path=self.photos / self.table.names[row],
            box=_draw_box(size, config, rng),
            rotation_deg=float(rng.uniform(-config.max_rotation_deg, config.max_rotation_deg)),
            edit=Relit(int(rng.integers(2**31)), config.relight),
            as_photo=True,
        )

    def query(self, row: int, config: QueryConfig, rng: np.random.Generator) -> ImageRequest:
        """The photo of a training query, distorted for a share of the calls."""
        if rng.random() < config.distorted_share:
            return self.distorted(row, config, rng)
        return self.whole(row)


@dataclass(frozen=True, kw_only=True, eq=False)
class Tuples:
    """The tuples of an epoch; rows refer to the images of the pair table.

    `negatives` is -1 where a query has fewer: `shortage` of them are missing in all.
    """

    query: Int[np.ndarray, " t"]
    positive: Int[np.ndarray, " t"]
    negatives: Int[np.ndarray, "t n"]
    requests: tuple[ImageRequest, ...]

    def __len__(self) -> int:
        return len(self.query)

    @property
    def shortage(self) -> int:
        """Number of negatives that the collection has too few places for."""
        return int((self.negatives < 0).sum())


def draw_pairs(
    table: PairTable,
    num_pairs: int,
    rng: np.random.Generator,
    *,
    by: Literal["query", "pair"] = "query",
) -> tuple[Int[np.ndarray, " t"], Int[np.ndarray, " t"]]:
    """Rows of training queries and of one random positive for each.

    By "query", queries come round in random order, each as often as any other (give or take one), however
    many positives it has, and a positive is drawn in proportion to its weight. By "pair", pairs are drawn in
    proportion to their weights, none again before all had their turn: a query comes as often as it has
    positives, as in the reference toolbox. ValueError when there is none.
    """
    positives = table.positives_of("train")
    if not len(positives):
        raise ValueError(
            "training: expected queries with a positive in the training places, got none; "
            "add photos that overlap more, or lower pairs.min_overlap"
        )
    if by == "pair":
        shares = positives.weight / positives.weight.sum()
        whole, rest = divmod(num_pairs, len(positives))
        turns = [*[len(positives)] * whole, rest]
        rows = np.concatenate([rng.choice(len(positives), size, replace=False, p=shares) for size in turns])
        return positives.query[rows], positives.positive[rows]
    by_query = positives.take(np.argsort(positives.query, kind="stable"))
    queries, start = np.unique(by_query.query, return_index=True)
    rounds = -(-num_pairs // len(queries))
    chosen = np.concatenate([rng.permutation(len(queries)) for _ in range(rounds)])[:num_pairs]
    # Weights as the edges of intervals: a query's positives share the stretch between two of its edges.
    edges = np.concatenate(([0.0], np.cumsum(by_query.weight)))
    low, high = edges[start][chosen], edges[np.append(start[1:], len(by_query))][chosen]
    drawn = np.searchsorted(edges, low + rng.random(num_pairs) * (high - low), side="right") - 1
    return queries[chosen], by_query.positive[drawn]


def draw_pool(
    table: PairTable,
    pool_size: int,
    allow_unplaced: bool,
    rng: np.random.Generator,
    *,
    first: Int[np.ndarray, " f"],
) -> Int[np.ndarray, " p"]:
    """Rows of the images among which an epoch's hard negatives are searched, rising; none is held out.

    `first` are different rows that are in it in any case, as long as there is room.
    """
    admitted = np.flatnonzero(~table.is_val & ((table.place >= 0) | allow_unplaced))
    if len(admitted) <= pool_size:
        return admitted
    others = np.setdiff1d(admitted, first, assume_unique=True)
    kept = first[:pool_size]
    return np.sort(np.concatenate([kept, rng.choice(others, pool_size - len(kept), replace=False)]))


def assemble(
    query: Int[np.ndarray, " t"],
    positive: Int[np.ndarray, " t"],
    requests: tuple[ImageRequest, ...],
    pool: Int[np.ndarray, " p"],
    found: HardNegatives,
) -> Tuples:
    """Tuples of pairs and the hard negatives found for their queries in the pool."""
    negatives = np.where(found.pool_row >= 0, pool[found.pool_row], -1)
    return Tuples(query=query, positive=positive, negatives=negatives, requests=requests)


def _draw_box(size: tuple[int, int], config: QueryConfig, rng: np.random.Generator) -> Box:
    sides = [max(1.0, side * rng.uniform(config.min_side, config.max_side)) for side in size]
    corner = [rng.uniform(0.0, whole - side) for whole, side in zip(size, sides, strict=True)]
    return corner[0], corner[1], corner[0] + sides[0], corner[1] + sides[1]
