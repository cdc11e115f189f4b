"""What re-ranking by geometry adds on the held-out queries of a finished run, by SIFT and by its network.

Crops, and crops retaken by another camera, are searched in the whole collection, or among the photos that the
network was not fitted to. Each setting is a list of --rerank steps. Means are over places, of means over a
place's queries; `finished` says who judges.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from cnnimretrieval.evaluation.scoring import score
from cnnimretrieval.local.detected import PhotoFeatures, detect_each, detection
from cnnimretrieval.local.features import LocalFeatures
from cnnimretrieval.local.pyramid import PyramidConfig, describe_locally
from cnnimretrieval.search.spatial import LOCAL, FeaturesOf, SpatialConfig, Verifier
from experiments.benchmarks.material.finished import Asked, Finished, finished, search_arguments
from experiments.benchmarks.measuring.measure import Claim, conclude
from experiments.commands import listing, reranking

_SETTINGS = ("spatial:features=sift", "spatial:features=local")
_KINDS = ("crop", "retaken")


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = search_arguments(__doc__)
    parser.add_argument("--workers", type=int, default=1, help="processes [%(default)s]")
    parser.add_argument("--setting", action="append", help="steps, separated by spaces; may be given again")
    given = parser.parse_args(words)
    run = finished(given.work, given.workers, unseen=given.unseen, purpose=given.purpose)
    sources = _Sources(run, listing.pyramid(given.local_set or [], asked=True), given.out, given.workers)
    gains = []
    for asked in (run.asked(kind, given.every) for kind in _KINDS):
        plain: dict[str, float] = {}
        for setting in ("", *(given.setting or _SETTINGS)):
            maps, shown = _measure(run, asked, setting, sources)
            plain = plain or maps
            changes = ", ".join(f"{by} {maps[by]:.4f} ({maps[by] - plain[by]:+.4f})" for by in maps)
            print(f"{asked.kind}, {setting or 'global descriptor'}: {changes}; {shown}", flush=True)
            if setting and asked.kind == "crop":
                gains.append(maps["tracks"] - plain["tracks"])
    what = "mAP of crops gained by the best setting"
    return conclude([Claim(what=what, measured=max(gains), limit=0.05, at_least=True)])


def _measure(run: Finished, asked: Asked, setting: str, sources: "_Sources") -> tuple[dict[str, float], str]:
    """MAP by each judge, and what it took a query, without finding features."""
    rerank = reranking.settings(setting.split())
    verifiers = [] if rerank.spatial is None else list(sources.verifiers(rerank.spatial, asked))
    started, used = time.perf_counter(), time.process_time()
    found = score(asked.benchmark, asked.vectors, run.database, np.arange(len(run.names)), rerank, verifiers)
    wall, cpu = time.perf_counter() - started, time.process_time() - used
    maps = {by: asked.mean_over_places(scores.average_precision) for by, scores in found.scores.items()}
    count = len(asked.requests)
    return (
        maps,
        f"{count} queries, {1e3 * wall / count:.0f} ms each, {1e3 * cpu / count:.0f} of processor time",
    )


class _Sources:
    """The local features of queries and collection by each method, found once."""

    def __init__(self, run: Finished, pyramid: PyramidConfig, out: Path, workers: int) -> None:
        self._run, self._pyramid, self._out, self._workers = run, pyramid, out, workers
        self._of_rows: dict[str, FeaturesOf] = {}
        self._of_queries: dict[tuple[str, str], list[LocalFeatures]] = {}

    def verifiers(self, config: SpatialConfig, asked: Asked) -> Iterator[Verifier]:
        """A verifier for each query."""
        name, cache = config.features, (config.features, asked.kind)
        if name not in self._of_rows:
            started = time.process_time()
            self._of_rows[name] = self._stored() if name == LOCAL else self._searched(config)
            print(f"{name}: features of the collection, {time.process_time() - started:.0f} s", flush=True)
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


if __name__ == "__main__":
    sys.exit(main())
