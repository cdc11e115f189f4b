"""Tracks as teachers of the trunk: a 3D point should look alike in all photos that see it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.networks.trunk import Trunk
from cnnimretrieval.networks.trunk_stages import Stage, find_stage, layer_of
from cnnimretrieval.training.local.losses import correspondence_loss, surely_apart
from cnnimretrieval.training.local.supervision import Observations, model_files, observations
from cnnimretrieval.training.photos.collection import Collection
from groundwork.orientation import upright_size
from groundwork.settings import Settings


class TrackLossConfig(Settings):
    """A loss of the trunk's map at stride 16, read where a query and its positive see the same 3D points.

    Both are seen as they are, at the size of training. Of a point, what the other photo sees further than a
    place of the map away competes.
    """

    weight: float = Field(
        default=0.0, ge=0, description="of a pair, summed over a step as the losses of tuples are; 0: none"
    )
    points: int = Field(default=64, ge=2, description="drawn of those that the pair shares")
    temperature: float = Field(default=0.1, gt=0, description="of the soft-max over points")
    sfm: Path | None = Field(
        default=None,
        description="folder of `reconstruct` whose tracks teach; sfm beside the pairs if not set",
    )

    def without_path(self) -> "TrackLossConfig":
        """The same but for where the reconstruction lies: what it holds decides."""
        return self.model_copy(update={"sfm": None})


@dataclass(frozen=True, kw_only=True, eq=False)
class TrackedPair:
    """Two photos as they are, and where both see the same points.

    Attributes:
        requests: the two photos.
        xy: of each point in either photo, as shares of its upright sides.

    """

    requests: tuple[ImageRequest, ImageRequest]
    xy: Float[np.ndarray, "k 2 2"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Tracks:
    """What is known of the points that the photos of a collection see, by their rows in the pair table.

    `stage` is the map of the trunk that learns from them.
    """

    collection: Collection
    seen: Mapping[int, Observations]
    config: TrackLossConfig
    stage: Stage

    @classmethod
    def of(
        cls,
        collection: Collection,
        models: Sequence[Path],
        config: TrackLossConfig,
        trunk: Trunk,
        num_layers: int,
    ) -> "Tracks | None":
        """The tracks of these models, if the settings ask for them; the lowest layers of `trunk` stay.

        ValueError when the map at stride 16 is one of theirs.
        """
        if not config.weight:
            return None
        return cls(
            collection=collection,
            seen=observations(models, collection.table),
            config=config,
            stage=_stage_that_learns(trunk, num_layers),
        )

    def pair(self, row: int, other: int, rng: np.random.Generator) -> TrackedPair | None:
        """Two photos with some of the points that both see; None of two that share fewer than two."""
        if row not in self.seen or other not in self.seen:
            return None
        one, two = self.seen[row], self.seen[other]
        shared, in_one, in_two = np.intersect1d(one.point, two.point, return_indices=True)
        if len(shared) < 2:
            return None
        drawn = rng.permutation(len(shared))[: self.config.points]
        xy = [self._shares(row, one.xy[in_one[drawn]]), self._shares(other, two.xy[in_two[drawn]])]
        whole = self.collection.whole
        return TrackedPair(requests=(whole(row), whole(other)), xy=np.stack(xy, axis=1))

    def _shares(self, row: int, xy: Float[np.ndarray, "k 2"]) -> Float[np.ndarray, "k 2"]:
        table = self.collection.table
        width, height = table.sizes[row]
        shares: Float[np.ndarray, "k 2"] = xy / upright_size(
            int(width), int(height), int(table.orientation[row])
        )
        return shares


def track_models(pairs_dir: Path, config: TrackLossConfig) -> list[Path]:
    """The files of the models whose tracks teach; none where they are not asked for.

    FileNotFoundError when they are, and there are none.
    """
    if not config.weight:
        return []
    return model_files(
        config.sfm if config.sfm is not None else pairs_dir.parent / "sfm", "train.loop.tracks"
    )


def _stage_that_learns(trunk: Trunk, num_layers: int) -> Stage:
    stage = find_stage(trunk)
    stay = [module for layer in trunk.layers[:num_layers] for module in layer.modules()]
    if any(module is layer_of(trunk, stage) for module in stay):
        raise ValueError(
            f"train.loop.tracks: expected weights that learn below {stage.layer} of {trunk.name}, got none; "
            "lower train.loop.frozen_share"
        )
    return stage


def track_loss(
    maps: Sequence[Float[Tensor, "1 c _ _"]], xy: Float[Tensor, "k 2 2"], temperature: float
) -> Float[Tensor, ""]:
    """Cross entropy of finding each point of one map among those of the other, both ways, mean over points.

    `xy` are shares of the sides of the two photos. A map lies over its whole photo: where a trunk does not
    pad, points near the border are read a little off.
    """
    (one, in_one), (other, in_other) = (_read(found, xy[:, side]) for side, found in enumerate(maps))
    same = torch.zeros(len(xy), dtype=torch.int64)
    competes = surely_apart(same[:, None].expand(-1, 2), torch.stack([in_one, in_other], dim=1).cpu(), same)
    return correspondence_loss(one, other, competes.to(xy.device), temperature)


def _read(one: Float[Tensor, "1 c h w"], xy: Float[Tensor, "k 2"]) -> tuple[Tensor, Tensor]:
    """Unit activations between the places around each position, and the place that it falls into."""
    grid = (2.0 * xy - 1.0)[None, None].to(one)
    found = functional.grid_sample(one, grid, padding_mode="border", align_corners=False)[0, :, 0].T
    sides = torch.tensor(one.shape[:1:-1], device=xy.device)
    return functional.normalize(found, dim=1), (xy * sides).floor().long()
