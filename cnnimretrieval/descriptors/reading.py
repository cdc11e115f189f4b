"""Requests carried out by processes that read ahead: pictures in the order of the requests, or reasons."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import UInt8

from cnnimretrieval.descriptors.images import UNMOVED, Frame, ImageRequest, read_framed
from groundwork.ahead import work_ahead
from groundwork.child import preload
from groundwork.photos import UnusablePhoto

Levels = UInt8[np.ndarray, "3 _ _"]

# What processes need besides that read edited photos, for `groundwork.child.preload`, before the first child.
# They take most of a second to load, which plain photos need not wait for.
EDITS = ("cnnimretrieval.descriptors.distort", "cnnimretrieval.descriptors.retake")

# Photos that a process reads at a time: enough to make its start cheap, few enough for pictures that wait.
_TOGETHER = 8
_DEADLY = "processes die of reading it"


@dataclass(frozen=True, kw_only=True, eq=False)
class Loaded:
    """One request carried out: its RGB levels and where they lie in the photo, or why there are none.

    `reason` can be counted: it names no photo, which `message`, the whole sentence, does.
    """

    levels: Levels | None
    frame: Frame = UNMOVED
    reason: str = ""
    message: str = ""


def read_each(requests: Sequence[ImageRequest], image_size: int, *, workers: int) -> Iterator[Loaded]:
    """Yield every request carried out, in order; a photo that cannot be used becomes a reason.

    `workers` processes read ahead; few photos are read in this one, whatever their number. A photo with
    which its process dies twice, the second time alone, cannot be used.
    """
    workers = workers if len(requests) > _TOGETHER else 0
    preload(__name__)
    read = partial(read_one, image_size)
    return work_ahead(read, requests, workers=workers, together=_TOGETHER, lost=_unusable)


def read_one(image_size: int, request: ImageRequest) -> Loaded:
    """One request carried out, in this process."""
    try:
        levels, frame = read_framed(request, image_size)
        return Loaded(levels=levels, frame=frame)
    except OSError as error:
        finding = error.__cause__ if isinstance(error.__cause__, UnusablePhoto) else error
        return Loaded(levels=None, reason=str(finding), message=str(error))
    except ValueError as error:
        return Loaded(levels=None, reason=f"box {request.box} outside the photo", message=str(error))


def _unusable(request: ImageRequest, death: str) -> Loaded:
    return Loaded(levels=None, reason=_DEADLY, message=f"photo {request.path}: {_why(death)}")


def _why(death: str) -> str:
    return (
        f"expected a process that reads it and lives, got '{death}', twice; replace or remove it, or give "
        "more memory or fewer --workers"
    )
