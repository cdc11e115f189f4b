"""The photos that a training has, and how each is shown: as it is, or as somebody might search with it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from pydantic import Field, model_validator

from cnnimretrieval.descriptors.distort import RelightConfig, Relit
from cnnimretrieval.descriptors.images import Box, ImageRequest
from groundwork.orientation import upright_size
from groundwork.random_streams import random_stream
from groundwork.settings import Settings
from pairs.pair_table import PairTable
from pairs.shared_points import points_inside

# Details drawn for a query until one shares enough points with its positive.
_TRIES = 20


class QueryConfig(Settings):
    """How training queries are made to look like what people search with: details, tilted, relit."""

    distorted_share: float = Field(default=0.0, ge=0, le=1, description="of the queries; 0 as published")
    min_side: float = Field(default=0.35, gt=0, le=1, description="of the crop, as a share of the photo's")
    max_side: float = Field(default=0.9, gt=0, le=1, description="of the crop, as a share of the photo's")
    min_shared_points: int = Field(
        default=15,
        ge=0,
        description="3D points that a detail has to share with its positive, where the photo shares as many",
    )
    max_rotation_deg: float = Field(default=8.0, ge=0, le=45, description="either way")
    relight: RelightConfig = RelightConfig()
    crops_per_photo: int = Field(
        default=0,
        ge=0,
        description="distorted queries that a photo has over all epochs, each read and computed once; "
        "0: a new one for every query",
    )

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

    def distorted(
        self, row: int, config: QueryConfig, rng: np.random.Generator, positive: int | None = None
    ) -> ImageRequest:
        """A detail of the photo as somebody might search with it; one of a few, if the settings say so.

        It shows what its `positive` shows, if there is one: of some details that are drawn, the first that
        shares enough 3D points with it, or the one that shares most.
        """
        width, height = self.table.sizes[row]
        size = upright_size(int(width), int(height), int(self.table.orientation[row]))
        counts = None if positive is None else self.table.points_shared(row, positive)
        box, rng = _first_with_points(
            _details(row, size, config, rng), counts, size, config.min_shared_points
        )
        return ImageRequest(
            path=self.photos / self.table.names[row],
            box=box,
            rotation_deg=float(rng.uniform(-config.max_rotation_deg, config.max_rotation_deg)),
            edit=Relit(int(rng.integers(2**31)), config.relight),
            as_photo=True,
        )

    def query(
        self, row: int, config: QueryConfig, rng: np.random.Generator, positive: int | None = None
    ) -> ImageRequest:
        """The photo of a training query, distorted for a share of the calls."""
        if rng.random() < config.distorted_share:
            return self.distorted(row, config, rng, positive)
        return self.whole(row)


def _details(
    row: int, size: tuple[int, int], config: QueryConfig, rng: np.random.Generator
) -> Iterator[tuple[Box, np.random.Generator]]:
    """Details to choose from, each with what the rest of its distortion is drawn by."""
    if not config.crops_per_photo:
        for _ in range(_TRIES):
            yield _draw_box(size, config, rng), rng
        return
    first = int(rng.integers(config.crops_per_photo))
    for number in range(config.crops_per_photo):
        own = random_stream(0, "crops of a photo", row, (first + number) % config.crops_per_photo)
        yield _draw_box(size, config, own), own


def _first_with_points(
    details: Iterator[tuple[Box, np.random.Generator]],
    counts: UInt8[np.ndarray, "cells cells"] | None,
    size: tuple[int, int],
    least: int,
) -> tuple[Box, np.random.Generator]:
    if counts is None:
        return next(details)
    enough, most = min(least, int(counts.sum(dtype=np.int64))), -1
    for box, rng in details:
        inside = points_inside(counts, box, size)
        if inside > most:
            most, chosen = inside, (box, rng)
        if inside >= enough:
            break
    return chosen


def _draw_box(size: tuple[int, int], config: QueryConfig, rng: np.random.Generator) -> Box:
    sides = [max(1.0, side * rng.uniform(config.min_side, config.max_side)) for side in size]
    corner = [rng.uniform(0.0, whole - side) for whole, side in zip(size, sides, strict=True)]
    return corner[0], corner[1], corner[0] + sides[0], corner[1] + sides[1]
