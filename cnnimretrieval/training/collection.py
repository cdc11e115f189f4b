"""The photos that a training has, and how each is shown: as it is, or as somebody might search with it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field, model_validator

from cnnimretrieval.descriptors.distort import RelightConfig, Relit
from cnnimretrieval.descriptors.images import Box, ImageRequest
from groundwork.orientation import upright_size
from groundwork.random_streams import random_stream
from groundwork.settings import Settings
from pairs.pair_table import PairTable


class QueryConfig(Settings):
    """How training queries are made to look like what people search with: details, tilted, relit."""

    distorted_share: float = Field(default=0.0, ge=0, le=1, description="of the queries; 0 as published")
    min_side: float = Field(default=0.35, gt=0, le=1, description="of the crop, as a share of the photo's")
    max_side: float = Field(default=0.9, gt=0, le=1, description="of the crop, as a share of the photo's")
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

    def distorted(self, row: int, config: QueryConfig, rng: np.random.Generator) -> ImageRequest:
        """A detail of the photo as somebody might search with it; one of a few, if the settings say so."""
        if config.crops_per_photo:
            rng = random_stream(0, "crops of a photo", row, int(rng.integers(config.crops_per_photo)))
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


def _draw_box(size: tuple[int, int], config: QueryConfig, rng: np.random.Generator) -> Box:
    sides = [max(1.0, side * rng.uniform(config.min_side, config.max_side)) for side in size]
    corner = [rng.uniform(0.0, whole - side) for whole, side in zip(size, sides, strict=True)]
    return corner[0], corner[1], corner[0] + sides[0], corner[1] + sides[1]
