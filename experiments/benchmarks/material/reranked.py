"""Held-out queries of a finished run, re-ranked by local features that are found once for all settings."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from cnnimretrieval.evaluation.scoring import score
from cnnimretrieval.local.detected import PhotoFeatures, detect_each, detection
from cnnimretrieval.local.features import LocalFeatures
from cnnimretrieval.local.pyramid import PyramidConfig, describe_locally
from cnnimretrieval.search.spatial import LOCAL, FeaturesOf, SpatialConfig, Verifier
from experiments.benchmarks.material.finished import Asked, Finished
from experiments.benchmarks.measuring.measure import timed
from experiments.commands import reranking


@dataclass(frozen=True, kw_only=True)
class Reranked:
    """The mAP by each judge, mean over places, and what a query took in ms, without finding features."""

    maps: Mapping[str, float]
    wall_ms: float
    cpu_ms: float


def rerank(run: Finished, asked: Asked, setting: str, sources: "Sources") -> Reranked:
    """Search for the queries and re-rank by the steps of `setting`, as --rerank takes them, or by none."""
    steps = reranking.settings(setting.split())
    verifiers = [] if steps.spatial is None else list(sources.verifiers(steps.spatial, asked))
    found, took = timed(
        lambda: score(
            asked.benchmark, asked.vectors, run.database, np.arange(len(run.names)), steps, verifiers
        )
    )
    return Reranked(
        maps={by: asked.mean_over_places(scores.average_precision) for by, scores in found.scores.items()},
        wall_ms=1e3 * took.wall / len(asked.requests),
        cpu_ms=1e3 * took.cpu / len(asked.requests),
    )


class Sources:
    """The local features of queries and collection by each method, found once and kept in `out`."""

    def __init__(self, run: Finished, pyramid: PyramidConfig, out: Path, workers: int) -> None:
        self._run, self._pyramid, self._out, self._workers = run, pyramid, out, workers
        self._of_rows: dict[str, FeaturesOf] = {}
        self._of_queries: dict[tuple[str, str], list[LocalFeatures]] = {}

    def verifiers(self, config: SpatialConfig, asked: Asked) -> Iterator[Verifier]:
        """A verifier for each query."""
        name, cache = config.features, (config.features, asked.kind)
        if name not in self._of_rows:
            self._of_rows[name], took = timed(
                self._stored if name == LOCAL else partial(self._searched, config)
            )
            print(f"{name}: features of the collection, {took.cpu:.0f} s of processor time", flush=True)
        if cache not in self._of_queries:
            self._of_queries[cache] = list(self._asked(config, asked))
        for features in self._of_queries[cache]:
            yield Verifier(partial(_same, features), self._of_rows[name], config)

    def _asked(self, config: SpatialConfig, asked: Asked) -> Iterator[LocalFeatures]:
        if config.features == LOCAL:
            return (one for one, _ in describe_locally(self._run.network, asked.requests, self._pyramid))
        found = detection(config.features, config.max_features)
        return (one.features() for one in detect_each(asked.requests, found, workers=self._workers))

    def _stored(self) -> FeaturesOf:
        store = self._run.local_features(self._pyramid, self._out)
        return _at(store.at)

    def _searched(self, config: SpatialConfig) -> FeaturesOf:
        found = detection(config.features, config.max_features)
        cache = self._out / "keypoints"
        of_rows = PhotoFeatures(self._run.request, found, cache=cache, workers=self._workers)
        of_rows.prepare(range(len(self._run.names)))
        return of_rows


def _at(read: Callable[[int], LocalFeatures]) -> FeaturesOf:
    return lambda rows: [read(row) for row in rows]


def _same(features: LocalFeatures) -> LocalFeatures:
    return features
