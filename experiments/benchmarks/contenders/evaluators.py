"""Two ways from descriptors in files to scores, streamed and straightforward, and made-up descriptors."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int

from cnnimretrieval.evaluation.benchmark import Benchmark, Query, judgement
from cnnimretrieval.evaluation.scoring import score
from cnnimretrieval.search.rerank import RerankConfig
from experiments.benchmarks.measuring.measure import Took, timed
from groundwork.shards import Shards

_CUTOFFS = (1, 5, 10)
# Judged photos of a query: easy, hard, junk; about as many as in ROxford5k.
_JUDGED = (40, 40, 60)
_PROTOCOLS = {"easy": ((0,), (1, 2)), "medium": ((0, 1), (2,)), "hard": ((1,), (0, 2))}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One contender's scores, mAP and mP@k of the protocols in a row; its own time and peak of memory."""

    scores: tuple[float, ...]
    took: Took
    peak_bytes: int


def make(folder: Path, num_queries: int, num_photos: int, num_distractors: int, dim: int, shard: int) -> None:
    """Write queries.npy, judged.npy (query, kind, photo), photos.npy and distractors-*.npy."""
    rng = np.random.default_rng(0)
    queries = rng.integers(-90, 91, (num_queries, dim))
    photos = rng.integers(-90, 91, (num_photos, dim)).astype(np.float64)
    judged = []
    for query, direction in enumerate(queries):
        rows = rng.permutation(num_photos)[: sum(_JUDGED)]
        kinds = np.repeat(np.arange(3), _JUDGED)[: len(rows)]
        # Easy photos lean towards the query most, and some hard ones hardly.
        leaning = rng.random(len(rows)) * np.array([1.0, 0.6, 0.8])[kinds]
        photos[rows] += leaning[:, None] * direction
        judged.append(np.stack([np.full(len(rows), query), kinds, rows], axis=1))
    np.save(folder / "queries.npy", queries.astype(np.float32))
    np.save(folder / "judged.npy", np.concatenate(judged))
    np.save(folder / "photos.npy", photos.round().astype(np.float32))
    for number, start in enumerate(range(0, num_distractors, shard)):
        size = (min(shard, num_distractors - start), dim)
        vectors = rng.integers(-90, 91, size).astype(np.float32)
        np.save(folder / f"distractors-{number:04d}.npy", vectors)


def streamed(folder: Path, num_shards: int | None = None) -> Run:
    """Ours, with the first shards of distractors or all of them."""
    before = resident_bytes("VmRSS")

    def work() -> tuple[float, ...]:
        photos = np.load(folder / "photos.npy", mmap_mode="r")
        files = sorted(folder.glob("distractors-*.npy"))[:num_shards]
        database = Shards([photos, *(np.load(file, mmap_mode="r") for file in files)])
        benchmark = _benchmark(np.load(folder / "judged.npy"), len(photos))
        queries = np.load(folder / "queries.npy")
        scores = score(benchmark, queries, database, np.arange(len(photos)), RerankConfig()).scores
        return tuple(
            value
            for found in scores.values()
            for value in (found.mean_average_precision, *found.mean_precision.tolist())
        )

    scores, took = timed(work)
    return Run(scores=scores, took=took, peak_bytes=resident_bytes("VmHWM") - before)


def straightforward(folder: Path, kind: Literal["quicksort", "stable"]) -> Run:
    """All scores, all ranks, then query by query as the reference does."""
    before = resident_bytes("VmRSS")

    def work() -> tuple[float, ...]:
        files = [folder / "photos.npy", *sorted(folder.glob("distractors-*.npy"))]
        vectors = np.concatenate([np.load(file) for file in files])
        scores = vectors @ np.load(folder / "queries.npy").T
        ranks = np.argsort(-scores, axis=0, kind=kind)
        judged = np.load(folder / "judged.npy")
        return tuple(
            value
            for positive, junk in _PROTOCOLS.values()
            for value in _mean_scores(ranks, judged, positive, junk)
        )

    scores, took = timed(work)
    return Run(scores=scores, took=took, peak_bytes=resident_bytes("VmHWM") - before)


def _mean_scores(
    ranks: Int[np.ndarray, "n q"],
    judged: Int[np.ndarray, "j 3"],
    positive_kinds: Sequence[int],
    junk_kinds: Sequence[int],
) -> list[float]:
    """The mAP and mP@k of one protocol, from the columns of ranked photos."""
    found = []
    for query in range(ranks.shape[1]):
        own = judged[judged[:, 0] == query]
        positives = own[np.isin(own[:, 1], positive_kinds), 2]
        junk = own[np.isin(own[:, 1], junk_kinds), 2]
        numbers = np.arange(len(ranks))
        places = numbers[np.isin(ranks[:, query], positives)]
        junk_places = numbers[np.isin(ranks[:, query], junk)]
        places = np.array([place - (junk_places < place).sum() for place in places])
        precision = []
        for cutoff in _CUTOFFS:
            considered = min(cutoff, int(places.max()) + 1)
            precision.append((places < considered).sum() / considered)
        found.append([_average_precision(places), *precision])
    return [float(value) for value in np.mean(found, axis=0)]


def _average_precision(places: Int[np.ndarray, " p"]) -> float:
    area = 0.0
    for number, place in enumerate(places):
        before = 1.0 if place == 0 else number / place
        area += (before + (number + 1) / (place + 1)) / (2 * len(places))
    return area


def _benchmark(judged: Int[np.ndarray, "j 3"], num_photos: int) -> Benchmark:
    num_queries = int(judged[:, 0].max()) + 1

    def rows(query: int, kinds: Sequence[int]) -> list[int]:
        chosen = (judged[:, 0] == query) & np.isin(judged[:, 1], kinds)
        found: list[int] = judged[chosen, 2].tolist()
        return found

    return Benchmark(
        name="made up",
        photos=Path(),
        query_photos=Path(),
        database=tuple(str(row) for row in range(num_photos)),
        queries=tuple(Query(name=str(query)) for query in range(num_queries)),
        protocols={
            name: tuple(
                judgement(rows(query, positive), rows(query, junk), num_photos, f"query {query}")
                for query in range(num_queries)
            )
            for name, (positive, junk) in _PROTOCOLS.items()
        },
    )


def resident_bytes(field: Literal["VmRSS", "VmHWM"]) -> int:
    """Memory of this process, now or at its peak; getrusage's peak would be that of its parent too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
