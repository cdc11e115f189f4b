"""The grid of square regions of R-MAC and regional pooling."""

from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

LEVELS = 3
_WISHED_OVERLAP = 0.4
_STEPS = (2, 3, 4, 5, 6, 7)
MOST_EXTRA = len(_STEPS)


class Region(NamedTuple):
    """A part of an activation map, in activations; y and x are its upper left corner."""

    y: int
    x: int
    height: int
    width: int


@lru_cache(maxsize=4096)
def region_grid(height: int, width: int, levels: int = LEVELS) -> tuple[Region, ...]:
    """The whole map, then the regions of each level, row by row (Tolias et al., ICLR 2016).

    With w the shorter side, level l has squares of side floor(2 w / (l + 1)): l of them along it and
    l + extra along the longer side, evenly spaced from edge to edge, at floor(k (length - side) / (n - 1)). A
    level whose side is 0 has none. 15 regions for a square map, 21 for one of 4 : 3.

    The reference toolbox computes the positions in single precision, which moves the last column of maps at
    least 11 times as long as wide by one; here they are exact, so that the grid always reaches the edge.
    """
    extra = _extra_on_the_longer_side(height, width)
    regions = [Region(0, 0, height, width)]
    for level in range(1, levels + 1):
        side = 2 * min(height, width) // (level + 1)
        if side == 0:
            break
        rows = _starts(height, side, level + (extra if height > width else 0))
        columns = _starts(width, side, level + (extra if width > height else 0))
        regions += [Region(y, x, side, side) for y in rows for x in columns]
    return tuple(regions)


def _extra_on_the_longer_side(height: int, width: int) -> int:
    """The number of steps whose neighbours overlap by about 0.4, less one; 0 for a square."""
    short, long = sorted((height, width))
    if short == long:
        return 0
    return int(extra_regions(torch.tensor(short), torch.tensor(long)))


def extra_regions(short: Int[Tensor, ""], long: Int[Tensor, ""]) -> Int[Tensor, ""]:
    """How many regions more the longer of two different sides has than the shorter one."""
    # In single precision and in this order, because rounding decides between two that are equally near.
    shift = (long - short) / (torch.tensor(_STEPS, dtype=torch.float32) - 1)
    overlap = (short**2 - short * shift) / short**2
    return (overlap - _WISHED_OVERLAP).abs().argmin() + 1


def _starts(length: int, side: int, count: int) -> list[int]:
    return [k * (length - side) // max(count - 1, 1) for k in range(count)]
