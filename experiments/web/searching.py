"""From a query, a photo of the collection or an uploaded one, to a ranking."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

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
from experiments.web.collection import Served
from experiments.web.faults import RequestFault
from experiments.web.pictures import apart
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


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is searched with: a row of the collection or an uploaded file, a part of it, and how.

    `right` are rows that a person marked as right: the query moves towards them.
    """

    row: int | None = None
    upload: Path | None = None
    box: Box | None = None
    right: tuple[int, ...] = ()
    steps: tuple[str, ...] = ()
    top: int = 10


@dataclass(frozen=True, kw_only=True)
class Found:
    """One result."""

    row: int
    name: str
    score: float
    box: Box | None
    inliers: int | None = None
    confidence: float | None = None


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

    async def search(self, asked: Asked) -> list[Found]:
        """The best rows, without the query's own; RequestFault for what cannot be searched with."""
        turn = object()
        if len(self._waiting) >= _MOST_AT_ONCE:
            raise RequestFault("", "busy: expected fewer searches at a time; try again in a moment", 503)
        self._waiting.add(turn)
        try:
            vector = await self._vector(asked)
            return await self._in_thread(lambda: self._ranked(vector, asked))
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

    def _ranked(self, vector: Float[np.ndarray, "1 d"], asked: Asked) -> list[Found]:
        served, right = self.served, asked.right
        if served.photo_rows is not None:
            right = tuple(served.photo_rows.best(vector[0], row, served.vectors) for row in right)
        query = towards(vector, np.asarray(served.vectors[np.array(right, np.int64)], np.float32))
        own = asked.row if asked.box is None else None
        num_photos = len(served.shown)
        top = min(asked.top + (own is not None), num_photos)
        config = RerankConfig(
            qe=ExpansionConfig() if "qe" in asked.steps else None,
            diffusion=DiffusionConfig(truncation=min(_DIFFUSED, num_photos))
            if "diffusion" in asked.steps and num_photos > 1
            else None,
            spatial=_SPATIAL if "spatial" in asked.steps else None,
        )
        # A calibration knows scores of photos, not those of queries and ranks that were moved.
        plain = not asked.right and not set(asked.steps) - {"spatial"}
        calibration = self.calibration if plain else None
        deep = top if calibration is None else max(top, depth(num_photos), _SPATIAL.candidates)
        proving = [self._verifier(asked)] if config.spatial is not None else []
        ranking = next(iter(reranked(query, served.vectors, config, deep, self.nearest, proving)))
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


def steps_of(given: list[str], steps: Mapping[str, str]) -> tuple[str, ...]:
    """The steps of re-ranking by their names; RequestFault for one that is not among `steps`."""
    for step in given:
        if step not in steps:
            known = ", ".join(steps)
            raise RequestFault("rerank", f"rerank: expected {known}, got '{step[:40]}'; take one of them")
    return tuple(given)


def box_of(text: str) -> Box | None:
    """The box x1,y1,x2,y2 of a text, None for an empty one; RequestFault for another form."""
    if not text.strip():
        return None
    try:
        sides: list[Any] = [float(part) for part in text.split(",")]
        proper = len(sides) == 4 and sides[0] < sides[2] and sides[1] < sides[3]
    except ValueError:
        proper = False
    if not proper or not np.isfinite(sides).all():
        raise RequestFault(
            "box", f"box: expected x1,y1,x2,y2 with x1 < x2 and y1 < y2, got '{text[:60]}'; draw it again"
        )
    return sides[0], sides[1], sides[2], sides[3]
