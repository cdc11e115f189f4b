"""Matched points of two photos for the pages: SIFT by child processes, and what one geometry explains."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cnnimretrieval.descriptors.images import Box, ImageRequest
from cnnimretrieval.local.detected import Detected, detect_each
from cnnimretrieval.local.pairing import PairConfig, pair
from cnnimretrieval.local.verification import opencv
from experiments.web import decoding
from experiments.web.collection import Served
from experiments.web.faults import RequestFault
from experiments.web.pictures import apart
from groundwork.child import WorkerDied
from groundwork.photos import UnusablePhoto
from sfm.detection import FeatureConfig

_LONGEST_PX = 1024


@dataclass(frozen=True, kw_only=True)
class Matched:
    """Points x, y in the query and x, y in the photo, in px of the upright photos, of the sizes given."""

    query_size: tuple[int, int]
    photo_size: tuple[int, int]
    points: list[tuple[float, float, float, float]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Matcher:
    """Matches a file with photos of the collection; only the features of these are kept, in `cache`."""

    served: Served
    children: Executor
    threads: ThreadPoolExecutor
    cache: Path
    max_megapixels: float

    async def matched(self, query: Path, box: Box | None, row: int) -> Matched:
        """The inliers of a file, or a part of it, and a row; RequestFault when one cannot be used."""
        photo = self.served.path(row)
        query_size, photo_size = await self._size(query, "photo"), await self._size(photo, "to")
        if query_size[0] * query_size[1] > self.max_megapixels * 1e6:
            raise RequestFault(
                "photo",
                f"photo: expected at most {self.max_megapixels:g} million pixels, got "
                f"{query_size[0]} x {query_size[1]}; save it smaller",
            )
        points = await asyncio.wrap_future(self.threads.submit(self._points, query, box, photo))
        return Matched(query_size=query_size, photo_size=photo_size, points=points)

    async def _size(self, path: Path, field: str) -> tuple[int, int]:
        try:
            return await asyncio.wrap_future(self.children.submit(apart(decoding.photo_size), path))
        except (UnusablePhoto, WorkerDied, OSError) as finding:
            raise RequestFault(
                field, f"{field}: expected a photo that can be read, got '{finding}'; choose another"
            ) from finding

    def _points(self, query: Path, box: Box | None, photo: Path) -> list[tuple[float, float, float, float]]:
        config = PairConfig(geometry="homography")
        features = FeatureConfig(method="sift", max_side_px=_LONGEST_PX, max_features=config.max_features)
        (asked,) = detect_each([ImageRequest(path=query, box=box)], features)
        (found,) = detect_each([ImageRequest(path=photo)], features, cache=self.cache)
        for detected in (asked, found):
            _require(detected)
        one, two = asked.features(), found.features()
        paired = pair(one, two, config)
        rows = paired.matches.rows[paired.verified.inliers]
        # Keypoints of a part are counted from its corner.
        corner = (0.0, 0.0) if box is None else (max(box[0], 0.0), max(box[1], 0.0))
        starts, ends = one.keypoints[rows[:, 0]] + corner, two.keypoints[rows[:, 1]]
        both = np.hstack([starts, ends]).astype(np.float64).tolist()
        return [(round(x1, 1), round(y1, 1), round(x2, 1), round(y2, 1)) for x1, y1, x2, y2 in both]


def if_possible(make: Callable[[], Matcher]) -> Matcher | None:
    """A matcher where the package is installed that verifies geometry."""
    try:
        opencv()
    except ImportError:
        return None
    return make()


def _require(detected: Detected) -> None:
    if detected.reason:
        raise RequestFault("photo", f"photo: expected points to match, got none: {detected.reason}")
