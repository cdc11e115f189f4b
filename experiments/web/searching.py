"""From a query, a photo of the collection or an uploaded one, to a ranking."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8

from cnnimretrieval.descriptors.extract import SEES_NOTHING, ExtractConfig, describe_batch
from cnnimretrieval.descriptors.images import Box, ImageRequest
from cnnimretrieval.local.detected import PhotoFeatures, detection
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.search.confidence import Calibration, background, depth
from cnnimretrieval.search.diffusion import DiffusionConfig
from cnnimretrieval.search.expansion import ExpansionConfig
from cnnimretrieval.search.feedback import towards
from cnnimretrieval.search.rerank import RerankConfig, reranked
from cnnimretrieval.search.spatial import UNSEEN, Reranked, SpatialConfig, Verifier
from cnnimretrieval.whitening.apply import Whitening, apply
from experiments.web import decoding
from experiments.web.asking import Asked, Found
from experiments.web.collection import Served
from experiments.web.faults import RequestFault
from experiments.web.pictures import apart
from experiments.web.together import Together
from groundwork.child import WorkerDied
from groundwork.descriptor_folder import unit_rows
from groundwork.executors import usable_cores
from groundwork.photos import UnusablePhoto
from groundwork.top_k import Nearest

T = TypeVar("T")

# A diffused ranking has so many rows at most, over a graph of their own: there is none of the collection.
_DIFFUSED = 1000
# Uploads and searches that wait or are at work; beyond that a visitor is told to come again.
_MOST_AT_ONCE = 48
STEPS = {"qe": "Query expansion", "diffusion": "Diffusion"}
# Where geometry can be verified; slow only for photos that no search before has looked into.
SPATIAL_STEP = {"spatial": "Geometry (slow at first)"}
_SPATIAL = SpatialConfig(features="sift", candidates=30)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an upload may be."""

    megabytes: float = 32.0
    megapixels: float = 64.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Describing:
    """How a query becomes a vector: as the collection did."""

    network: RetrievalNetwork
    extraction: ExtractConfig
    whitening: Whitening | None
    device: str

    def vector(self, levels: UInt8[np.ndarray, "3 h w"]) -> Float[np.ndarray, "1 d"]:
        """The unit descriptor of a picture; RequestFault for one too small, or in which nothing is seen."""
        trunk = self.network.trunk
        height, width = levels.shape[1:]
        if max(height, width) < trunk.stride:
            raise RequestFault(
                "box",
                f"box: expected {trunk.stride} px or more along a side, got {width} x {height}; "
                "take a larger part",
            )
        picture = torch.from_numpy(levels)[None].to(self.device)
        vector = describe_batch(self.network, picture, self.extraction).cpu().numpy()
        if self.whitening is not None:
            vector = apply(self.whitening, vector)
        if not unit_rows(vector).all():
            raise RequestFault("photo", f"photo: expected something to search with, got none: {SEES_NOTHING}")
        return vector


@dataclass(frozen=True, kw_only=True, eq=False)
class Searcher:
    """Answers queries; descriptors and rankings are made by threads, files are decoded by child processes.

    What geometry needs of the collection's photos is kept in `keypoints`; nothing of an upload is.
    """

    served: Served
    describing: Describing
    nearest: Nearest
    children: Executor
    threads: ThreadPoolExecutor
    keypoints: Path
    calibration: Calibration | None = None
    limits: Limits = field(default_factory=Limits)
    _waiting: set[object] = field(default_factory=set)

    @cached_property
    def _together(self) -> Together:
        return Together(self.nearest, self.threads)

    async def search(self, asked: Asked) -> list[Found]:
        """The best rows, without the query's own; RequestFault for what cannot be searched with."""
        turn = object()
        if len(self._waiting) >= _MOST_AT_ONCE:
            raise RequestFault("", "busy: expected fewer searches at a time; try again in a moment", 503)
        self._waiting.add(turn)
        try:
            query = self._moved(await self._vector(asked), asked)
            if asked.steps:
                return await self._in_thread(lambda: self._ranked(query, asked, self.nearest))
            ranking = await self._together(query, self._deep(asked))
            return self._ranked(query, asked, lambda *_: ranking)
        finally:
            self._waiting.discard(turn)

    async def _vector(self, asked: Asked) -> Float[np.ndarray, "1 d"]:
        if asked.row is not None and asked.box is None:
            return np.array(self.served.vectors[asked.row : asked.row + 1], np.float32)
        if asked.row is not None:
            path = self.served.path(asked.row)
        elif asked.upload is not None:
            path = asked.upload
        else:
            raise RequestFault("photo", "photo: expected one to search with, got none; choose a photo")
        decoded = await self._decoded(path, asked.box)
        return await self._in_thread(lambda: self.describing.vector(decoded.levels))

    async def _decoded(self, path: Path, box: Box | None) -> decoding.Decoded:
        task, size = apart(decoding.decode), self.describing.extraction.image_size
        try:
            decoded = await asyncio.wrap_future(
                self.children.submit(task, path, box, size, self.limits.megapixels)
            )
        except decoding.OutsidePhoto as finding:
            raise RequestFault(
                "box",
                f"box: expected a part of the {finding} photo, got "
                f"{','.join(f'{side:g}' for side in box or ())}; draw it on the photo",
            ) from finding
        except (UnusablePhoto, OSError, MemoryError) as finding:
            raise RequestFault(
                "photo", f"photo: expected one that can be read, got '{finding}'; choose another"
            ) from finding
        except WorkerDied as death:
            raise RequestFault(
                "photo", f"photo: expected one that can be read, got a file that ends its reader ({death})"
            ) from death
        return decoded  # type: ignore[no-any-return]

    def _moved(self, vector: Float[np.ndarray, "1 d"], asked: Asked) -> Float[np.ndarray, "1 d"]:
        """The query, nearer to what was marked as right."""
        served, right = self.served, asked.right
        if served.photo_rows is not None:
            right = tuple(served.photo_rows.best(vector[0], row, served.vectors) for row in right)
        return towards(vector, np.asarray(served.vectors[np.array(right, np.int64)], np.float32))

    def _calibration(self, asked: Asked) -> Calibration | None:
        """It knows scores of photos, not those of queries and ranks that were moved."""
        return None if asked.right or set(asked.steps) - {"spatial"} else self.calibration

    def _deep(self, asked: Asked) -> int:
        """How long the ranking has to be: for the page, the query's own photo besides, and the background."""
        num_photos = len(self.served.shown)
        top = min(asked.top + (asked.row is not None and asked.box is None), num_photos)
        if self._calibration(asked) is None:
            return top
        return max(top, depth(num_photos), _SPATIAL.candidates)

    def _ranked(self, query: Float[np.ndarray, "1 d"], asked: Asked, nearest: Nearest) -> list[Found]:
        served, num_photos, deep = self.served, len(self.served.shown), self._deep(asked)
        own = asked.row if asked.box is None else None
        config = RerankConfig(
            qe=ExpansionConfig() if "qe" in asked.steps else None,
            diffusion=DiffusionConfig(truncation=min(_DIFFUSED, num_photos))
            if "diffusion" in asked.steps and num_photos > 1
            else None,
            spatial=_SPATIAL if "spatial" in asked.steps else None,
        )
        calibration = self._calibration(asked)
        proving = [self._verifier(asked)] if config.spatial is not None else []
        ranking = next(iter(reranked(query, served.vectors, config, deep, nearest, proving)))
        inliers = ranking.inliers[0].tolist() if isinstance(ranking, Reranked) else [UNSEEN] * deep
        rows, scores = ranking.rows[0].tolist(), ranking.scores[0].tolist()
        sure: list[float | None] = [None] * deep
        if calibration is not None:
            level = background(ranking.scores[0], num_photos)
            sure = [*calibration.confidence(ranking.scores[0], level).tolist()]
        shown_by = rows if served.photo_rows is None else served.photo_rows.first_row[rows].tolist()
        found = [
            Found(
                row=by,
                name=served.names[row],
                score=score,
                box=served.box(row),
                inliers=None if count == UNSEEN else count,
                confidence=chance,
            )
            for row, by, score, count, chance in zip(rows, shown_by, scores, inliers, sure, strict=False)
            if by != own
        ]
        return found[: asked.top]

    def _verifier(self, asked: Asked) -> Verifier:
        features = detection(_SPATIAL.features, _SPATIAL.max_features)
        path = asked.upload if asked.row is None else self.served.path(asked.row)
        assert path is not None
        query = ImageRequest(path=path, box=asked.box)
        kept = None if asked.upload is not None else self.keypoints
        of_query = PhotoFeatures(lambda _: query, features, cache=kept, workers=1)
        of_rows = PhotoFeatures(self._request, features, cache=self.keypoints, workers=usable_cores())
        return Verifier(lambda: of_query([0])[0], of_rows, _SPATIAL)

    def _request(self, row: int) -> ImageRequest:
        """What a row shows; of one whose photo is gone, a file that is not there, which proves nothing."""
        box = self.served.box(row) if self.served.photo_rows is None else None
        try:
            return ImageRequest(path=self.served.path(row), box=box)
        except RequestFault:
            return ImageRequest(path=self.keypoints / "gone")

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self.threads.submit(work))
