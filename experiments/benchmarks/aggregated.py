"""Aggregated local search against verifying every photo, on the held-out crops of a finished run.

The ways: the global descriptor; that with its first 100 photos verified by the network's local features; the
inverted file of aggregated local features; that with its first 100 verified; and every photo verified. Junk
leaves a ranking before it is cut. `finished` says who judges.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial

import numpy as np
from jaxtyping import Int

from cnnimretrieval.evaluation.metrics import Relevance, score_rankings
from cnnimretrieval.local.features import LocalFeatures
from cnnimretrieval.local.inverted_file import AsmkConfig, InvertedFile, index_locally
from cnnimretrieval.local.pyramid import describe_locally
from cnnimretrieval.local.store import LocalStore
from cnnimretrieval.search.spatial import SpatialConfig, Verifier, rerank_spatially
from experiments.benchmarks.material.finished import Asked, Finished, finished, search_arguments
from experiments.benchmarks.measuring.measure import Claim, conclude, print_table
from experiments.commands import listing
from groundwork.top_k import Ranking, search

# From the number of a query and its junk to what is found for it.
Way = Callable[[int, Int[np.ndarray, " j"]], Ranking]
_TIME = "processor ms a query"


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code."""
    parser = search_arguments(__doc__)
    parser.add_argument("--words", type=int, default=4096, help="of the codebook [%(default)s]")
    given = parser.parse_args(words)
    try:
        run = finished(given.work, 1, unseen=given.unseen, purpose=given.purpose)
        pyramid = listing.pyramid(given.local_set or [], asked=True)
        run.network.require_local()
    except (OSError, ValueError) as error:
        parser.error(str(error))
    store = run.local_features(pyramid, given.out)
    index = index_locally(store, given.out, AsmkConfig(words=given.words))
    asked = run.asked("crop", given.every)
    features = [one for one, _ in describe_locally(run.network, asked.requests, pyramid)]
    measured = {
        name: _measured(way, asked) for name, way in _ways(run, asked, features, store, index).items()
    }
    header = ("way", *next(iter(measured.values())))
    print(f"{len(asked.requests)} crops, {len(run.names):,} photos")
    print_table(header, [(name, *map("{:.4f}".format, row.values())) for name, row in measured.items()])
    print(
        f"bytes a photo: {index.bytes_a_photo:,.0f} of the index, "
        f"{store.bytes_a_photo:,.0f} of the local features, "
        f"{run.database.itemsize * run.database.shape[1]:,} of the global descriptor"
    )
    by_time = measured["every photo verified"][_TIME] / measured["aggregated"][_TIME]
    return conclude(
        [Claim(what="times quicker than verifying all", measured=by_time, limit=10.0, at_least=True)]
    )


def _ways(
    run: Finished, asked: Asked, features: list[LocalFeatures], store: LocalStore, index: InvertedFile
) -> dict[str, Way]:
    """What is compared, by name."""
    total, config = len(run.names), SpatialConfig()
    every = config.model_copy(update={"candidates": total})

    def by_global(number: int) -> Ranking:
        return search(asked.vectors[number][None], run.database, total)

    def aggregated(number: int) -> Ranking:
        return index.search(features[number].descriptors, total)

    def verified(first: Callable[[int], Ranking], settings: SpatialConfig) -> Way:
        verifiers = [Verifier(partial(_same, one), _reader(store), settings) for one in features]
        once = cache(first)
        return lambda number, junk: rerank_spatially(_without(once(number), junk), verifiers[number])

    def alone(first: Callable[[int], Ranking]) -> Way:
        once = cache(first)
        return lambda number, junk: _without(once(number), junk)

    return {
        "global descriptor": alone(by_global),
        "global, 100 verified": verified(by_global, config),
        "aggregated": alone(aggregated),
        "aggregated, 100 verified": verified(aggregated, config),
        "every photo verified": verified(by_global, every),
    }


def _measured(way: Way, asked: Asked) -> dict[str, float]:
    """The mAP by each judge, and milliseconds of processor time a query, its features not counted.

    A query is searched for once for all judges; what one of them takes as junk leaves the ranking after that.
    """
    found: dict[str, float] = {}
    started = time.process_time()
    for judge, relevance in asked.benchmark.protocols.items():
        scores = score_rankings(list(_rankings(way, relevance)), relevance)
        found[judge] = asked.mean_over_places(scores.average_precision)
    return {**found, _TIME: 1e3 * (time.process_time() - started) / len(asked.requests)}


def _rankings(way: Way, relevance: Sequence[Relevance]) -> Iterator[Int[np.ndarray, " n"]]:
    for number, truth in enumerate(relevance):
        yield way(number, truth.junk).rows[0]


def _without(ranking: Ranking, junk: Int[np.ndarray, " j"]) -> Ranking:
    kept = ~np.isin(ranking.rows[0], junk)
    return Ranking(rows=ranking.rows[:, kept], scores=ranking.scores[:, kept])


def _reader(store: LocalStore) -> Callable[[Sequence[int]], list[LocalFeatures]]:
    return lambda rows: [store.at(row) for row in rows]


def _same(features: LocalFeatures) -> LocalFeatures:
    return features


if __name__ == "__main__":
    sys.exit(main())
