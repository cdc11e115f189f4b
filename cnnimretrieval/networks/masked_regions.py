"""Pooling of R-MAC's regions by masks, for graphs in which height and width of a map are not known yet.

`regions.region_grid` counts in Python and cuts; here the same numbers are tensors, and what lies outside of a
region is masked. There are as many masks as the longest map needs: those that a map lacks add nothing.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cnnimretrieval.networks.pooling import Gem, Mac, Regional, Rmac, Spoc, l2_normalise
from cnnimretrieval.networks.regions import LEVELS, MOST_EXTRA, extra_regions


class MaskedRegions(nn.Module):
    """What `Regional` does, or `Rmac` and the L2 norm after it, for maps of any size in one graph."""

    def __init__(self, pool: nn.Module, whitening: nn.Linear | None = None, levels: int = LEVELS) -> None:
        super().__init__()
        self.pool = pool
        self.whitening = whitening
        self.levels = levels

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c"]:
        """The unit vectors of the images."""
        x = x.float()
        total = torch.zeros_like(x[:, :, 0, 0])
        for inside, exists in region_masks(x.shape[2], x.shape[3], self.levels):
            vectors = l2_normalise(pooled_inside(self.pool, x, inside))
            if self.whitening is not None:
                vectors = l2_normalise(self.whitening(vectors))
            # Of a region that is not there the pooling may be anything, NaN for one.
            total = total + torch.where(exists, vectors, 0.0)
        return l2_normalise(total)


def for_any_size(pool: nn.Module) -> nn.Module:
    """`pool` as a layer that can be exported with symbols for height and width."""
    if isinstance(pool, Rmac):
        return MaskedRegions(Mac())
    if isinstance(pool, Regional):
        return MaskedRegions(pool.pool, pool.whitening, pool.levels)
    return pool


def region_masks(
    height: int, width: int, levels: int = LEVELS
) -> Iterator[tuple[Bool[Tensor, "h w"], Bool[Tensor, ""]]]:
    """The regions of `region_grid` in another order: what is inside, and whether there is such a one.

    `height` and `width` may be symbols.
    """
    y, x = torch.arange(height)[:, None], torch.arange(width)[None, :]
    rows, columns = (torch.scalar_tensor(side, dtype=torch.int64) for side in (height, width))
    short, long = torch.minimum(rows, columns), torch.maximum(rows, columns)
    extra = torch.where(rows == columns, 0, extra_regions(short, long))
    yield (y >= 0) & (x >= 0), rows > 0
    for level in range(1, levels + 1):
        side = 2 * short // (level + 1)
        for across in range(level):
            on_shorter = _start(across, short, side, torch.tensor(level))
            for along in range(level + MOST_EXTRA):
                on_longer = _start(along, long, side, level + extra)
                top = torch.where(rows > columns, on_longer, on_shorter)
                left = torch.where(rows > columns, on_shorter, on_longer)
                inside = (y >= top) & (y < top + side) & (x >= left) & (x < left + side)
                yield inside, (along < level + extra) & (side > 0)


def pooled_inside(
    pool: nn.Module, x: Float[Tensor, "b c h w"], inside: Bool[Tensor, "h w"]
) -> Float[Tensor, "b c"]:
    """`pool` of a part of each map. TypeError for a pooling that it does not know."""
    match pool:
        case Mac():
            return torch.where(inside, x, -torch.inf).amax(dim=(2, 3))
        case Spoc():
            return torch.where(inside, x, 0.0).sum(dim=(2, 3)) / inside.sum()
        case Gem():
            clamped, exponent = x.clamp(min=pool.eps), pool.power
            largest = torch.where(inside, clamped, 0.0).amax(dim=(2, 3), keepdim=True)
            powers = torch.where(inside, (clamped / largest).pow(exponent[:, None, None]), 0.0)
            mean = powers.sum(dim=(2, 3)) / inside.sum()
            return mean.pow(1.0 / exponent) * largest[:, :, 0, 0]
    raise TypeError(
        f"regions: expected the pooling mac, spoc or gem, got {type(pool).__name__}; write it as a mask here"
    )


def _start(
    number: int, length: Int[Tensor, ""], side: Int[Tensor, ""], count: Int[Tensor, ""]
) -> Int[Tensor, ""]:
    return number * (length - side) // (count - 1).clamp(min=1)
