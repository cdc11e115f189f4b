"""Rank the photos of an extracted folder for query photos, described the way the folder was."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from cnnimretrieval.descriptors.extract import describe
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.store import DescriptorStore, StoreMeta
from cnnimretrieval.local.inverted_file import open_index
from cnnimretrieval.local.pyramid import PyramidConfig, describe_locally
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.search.confidence import Sure, applying, background, depth
from cnnimretrieval.search.evidence import CACHE, Searched, local_features, verifiers
from cnnimretrieval.search.photo_rows import ByPhoto, PhotoRows
from cnnimretrieval.search.rerank import RerankConfig, reranked
from cnnimretrieval.search.spatial import UNSEEN, Reranked, Verifier, rerank_spatially
from cnnimretrieval.whitening.apply import apply
from groundwork.descriptor_folder import BOX, unit_rows
from groundwork.top_k import Nearest, Ranking


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A database photo, or the box of it that was described, with its inner product or re-ranked score.

    `inliers` where geometry was looked for, None elsewhere; `confidence` where a calibration tells it.
    """

    name: str
    score: float
    box: tuple[float, ...] | None
    inliers: int | None = None
    confidence: float | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was found for one query, best first."""

    query: Path
    hits: tuple[Hit, ...]


def rank(
    network: RetrievalNetwork,
    store: DescriptorStore,
    queries: Sequence[ImageRequest],
    top: int,
    rerank: RerankConfig,
    *,
    nearest: Nearest | None = None,
    folder: Path | None = None,
    sure: Sure | None = None,
    device: str = "cpu",
    workers: int = 0,
) -> list[Answer]:
    """The `top` best rows of `store` for each query, described the way the store was, and re-ranked.

    Of a store with regions they are photos, each with the best of its rows.

    `nearest` searches the store in place of exact search, as its index does. A spatial step needs the
    `folder` that the store was read from: local features lie there. With `sure` results have a confidence
    where its calibration is of such results, and those below its least are left out.

    ValueError when another network made the store or a query has no direction, OSError when one cannot be
    read.
    """
    store.require_network(network)
    calibration = applying(sure, store, rerank)
    vectors = described_queries(network, store.meta, queries, device=device, workers=workers)
    if store.meta.regions is not None:
        nearest = ByPhoto(PhotoRows.of_names(store.images["name"]), store.vectors, nearest)
    proving: list[Verifier] = []
    if rerank.spatial is not None:
        searched = _searched(store, folder)
        proving = verifiers(rerank.spatial, network, queries, searched, device=device, workers=workers)
    num_photos = len(store.vectors)
    deep = top if calibration is None else max(top, depth(num_photos))
    if calibration is not None and rerank.spatial is not None:
        deep = max(deep, rerank.spatial.candidates)
    answers = []
    for query, ranking in zip(
        queries, reranked(vectors, store.vectors, rerank, deep, nearest, proving), strict=True
    ):
        hits = list(_hits(store.images, ranking))[:top]
        if calibration is not None and sure is not None:
            told = calibration.confidence(ranking.scores[0], background(ranking.scores[0], num_photos))
            both = zip(hits, told.tolist(), strict=False)
            hits = [replace(hit, confidence=one) for hit, one in both if one >= sure.least]
        answers.append(Answer(query=query.path, hits=tuple(hits)))
    return answers


def described_queries(
    network: RetrievalNetwork, meta: StoreMeta, queries: Sequence[ImageRequest], *, device: str, workers: int
) -> Float[np.ndarray, "q d"]:
    """Queries described the way a store was; errors are those of `rank`."""
    readers = min(workers, len(queries))
    described = describe(network, queries, meta.extraction, device=device, workers=readers)
    vectors = described.require_all()
    whitening = network.whitening_for(meta.extraction.scales)
    if meta.whitening is not None and whitening is not None:
        vectors = apply(whitening, vectors)
    blind = np.flatnonzero(~unit_rows(vectors))
    if len(blind):
        raise ValueError(
            f"query {queries[blind[0]].path}: expected a descriptor of length 1, got "
            f"{np.linalg.norm(vectors[blind[0]]):.4g} after whitening; search with another photo or network"
        )
    return vectors


def rank_locally(
    network: RetrievalNetwork,
    store: DescriptorStore,
    queries: Sequence[ImageRequest],
    top: int,
    rerank: RerankConfig,
    folder: Path,
    *,
    device: str = "cpu",
    workers: int = 0,
) -> list[Answer]:
    """As `rank`, by aggregated local features in place of global descriptors: of the index in `folder`.

    Of re-ranking only a spatial step applies. ValueError for any other step and when another network left the
    local features, FileNotFoundError when there are none, or no index.
    """
    if rerank.model_copy(update={"spatial": None}) != RerankConfig():
        raise ValueError(
            "local index: expected no re-ranking but spatial, got steps that move global descriptors; leave "
            "them out, or search without the local index"
        )
    network.require_local()
    local, index = local_features(folder, store.images), open_index(folder)
    local.require_maker(network.fingerprint())
    pyramid = PyramidConfig.model_validate(local.meta.settings)
    readers = min(workers, len(queries))
    described = list(describe_locally(network, queries, pyramid, device=device, workers=readers))
    for query, (_, reason) in zip(queries, described, strict=True):
        if reason:
            raise OSError(f"query {query.path}: expected a photo, got '{reason}'; replace or remove it")
    depth = top if rerank.spatial is None else max(top, rerank.spatial.candidates)
    answers = []
    for query, (features, _) in zip(queries, described, strict=True):
        ranking = index.search(features.descriptors, depth)
        if rerank.spatial is not None:
            (verifier,) = verifiers(
                rerank.spatial, network, [query], _searched(store, folder), device=device, workers=workers
            )
            ranking = rerank_spatially(ranking, verifier)
        answers.append(Answer(query=query.path, hits=tuple(_hits(store.images, ranking))[:top]))
    return answers


def _searched(store: DescriptorStore, folder: Path | None) -> Searched:
    if folder is None:
        raise ValueError("rank: expected the folder of the store for a spatial step, got None; give it")
    return Searched(
        request_of=store.photo_request,
        stores=lambda: [local_features(folder, store.images)],
        store_of=lambda row: (0, row),
        cache=folder / CACHE,
    )


def _hits(images: pd.DataFrame, ranking: Ranking) -> Iterator[Hit]:
    unseen = np.full(ranking.rows.shape, UNSEEN)
    found = ranking.inliers if isinstance(ranking, Reranked) else unseen
    for row, score, inliers in zip(ranking.rows[0], ranking.scores[0], found[0], strict=True):
        image = images.iloc[row]
        sides = tuple(float(image[side]) for side in BOX)
        yield Hit(
            name=image["name"],
            score=float(score),
            box=None if np.isnan(sides[0]) else sides,
            inliers=None if inliers == UNSEEN else int(inliers),
        )
