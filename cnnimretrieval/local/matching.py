"""Putative matches of two photos: nearest neighbours of their local descriptors that stand out."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from pydantic import Field
from torch import Tensor

from groundwork.settings import Settings


class MatchConfig(Settings):
    """Which nearest neighbours are matches."""

    mutual: bool = Field(default=True, description="each must be the other's nearest")
    max_ratio: float = Field(
        default=0.9,
        gt=0.0,
        le=1.0,
        description="distance to the nearest by that to the second nearest, at most; 1 asks nothing",
    )
    max_distance: float = Field(
        default=1.0, gt=0.0, le=2.0, description="L2 distance of unit descriptors, at most; 2 asks nothing"
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Matches:
    """Rows (i, j) of two photos' features, i rising, and the L2 distances of their descriptors."""

    rows: Int64[np.ndarray, "k 2"]
    distances: Float32[np.ndarray, " k"]

    def __len__(self) -> int:
        return len(self.rows)


def match(first: Float[np.ndarray, "n d"], second: Float[np.ndarray, "m d"], config: MatchConfig) -> Matches:
    """The matches of unit descriptors `first` to those of `second`; each of `first` is in one at most.

    With `mutual` so is each of `second`. The ratio test (D. Lowe, IJCV 2004) looks from `first` at `second`;
    a lone descriptor of `second` has no second nearest and passes it. Exact search: for a photo's thousand
    descriptors no index is faster than n x m products. No features have no matches. ValueError for
    descriptors of different length, or that are not finite.
    """
    if not len(first) or not len(second):
        return Matches(rows=np.empty((0, 2), np.int64), distances=np.empty(0, np.float32))
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"matching: expected descriptors of one length, got {first.shape[1]} and {second.shape[1]}; "
            "take the features of both photos from one method"
        )
    # By torch: on a CPU three times as fast as numpy's product here.
    products = _tensor(first) @ _tensor(second).T
    best, nearest = products.max(dim=1)
    if not bool(torch.isfinite(best).all()):
        raise ValueError(
            "matching: expected finite descriptors, got NaN or infinity; extract the local features again"
        )
    rows = torch.arange(len(first))
    kept = best >= 1.0 - config.max_distance**2 / 2.0
    if config.max_ratio < 1.0 and len(second) > 1:
        products[rows, nearest] = -torch.inf
        runner_up = products.amax(dim=1)
        products[rows, nearest] = best
        kept &= 1.0 - best <= config.max_ratio**2 * (1.0 - runner_up)
    if config.mutual:
        # Only the few columns that are still in question are searched the other way round.
        asked = torch.nonzero(kept).ravel()
        back = products[:, nearest[asked]].argmax(dim=0)
        kept[asked] = back == asked
    found = torch.nonzero(kept).ravel()
    squared = (2.0 - 2.0 * best[found]).clamp(min=0.0)
    return Matches(rows=torch.stack([found, nearest[found]], dim=1).numpy(), distances=squared.sqrt().numpy())


def _tensor(descriptors: Float[np.ndarray, "n d"]) -> Float[Tensor, "n d"]:
    return torch.from_numpy(np.array(descriptors, np.float32))
