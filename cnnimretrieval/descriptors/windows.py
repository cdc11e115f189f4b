"""Overlapping windows of a photo, described beside the whole of it for people who look for a detail."""

from collections.abc import Sequence
from itertools import chain

from pydantic import Field, field_validator

from cnnimretrieval.descriptors.images import Box, ImageRequest
from groundwork.orientation import upright_size
from groundwork.photos import UnusablePhoto, stored_shape
from groundwork.settings import Settings

MOST_ALONG = 6


class RegionConfig(Settings):
    """Which windows of a photo have descriptors of their own."""

    grids: tuple[int, ...] = Field(
        min_length=1,
        description="n lays n x n windows over the photo, each 2 / (n + 1) of its sides: neighbours overlap "
        "by half; several numbers lay several grids",
    )

    @field_validator("grids")
    @classmethod
    def _some_windows(cls, grids: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(grids)) < len(grids) or not all(2 <= grid <= MOST_ALONG for grid in grids):
            said = ",".join(map(str, grids))
            raise ValueError(
                f"regions: expected different numbers from 2 to {MOST_ALONG}, got {said}; use 2 or 3"
            )
        return grids


def windows(width: int, height: int, config: RegionConfig) -> tuple[Box, ...]:
    """The boxes of a photo's windows in whole px, grid by grid and row by row, evenly from edge to edge."""
    return tuple(
        (x1, y1, x2, y2) for n in config.grids for y1, y2 in _along(height, n) for x1, x2 in _along(width, n)
    )


def with_windows(requests: Sequence[ImageRequest], config: RegionConfig) -> list[ImageRequest]:
    """Each photo followed by its windows; ValueError for what is a part of a photo already.

    A photo that cannot be read has none: whoever describes it tells why.
    """
    boxed = next((request for request in requests if request.box is not None), None)
    if boxed is not None:
        raise ValueError(
            f"regions of {boxed.path}: expected a whole photo, got the box {boxed.box}; leave out the "
            "regions or the boxes"
        )
    return list(chain.from_iterable((request, *_parts(request, config)) for request in requests))


def _parts(request: ImageRequest, config: RegionConfig) -> list[ImageRequest]:
    try:
        width, height = upright_size(*stored_shape(request.path))
    except (UnusablePhoto, OSError):
        return []
    boxes = windows(width, height, config)
    return [ImageRequest(path=request.path, box=box) for box in boxes if box[0] < box[2] and box[1] < box[3]]


def _along(length: int, n: int) -> list[tuple[float, float]]:
    side = round(2 * length / (n + 1))
    starts = [round(k * (length - side) / (n - 1)) for k in range(n)]
    return [(float(start), float(start + side)) for start in starts]
