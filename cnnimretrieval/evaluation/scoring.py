"""Descriptors of a benchmark to its scores: rank, by inner product or re-ranked, and compare."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from cnnimretrieval.evaluation.benchmark import Benchmark
from cnnimretrieval.evaluation.metrics import Relevance, Scores, places_without_junk, score_places
from cnnimretrieval.evaluation.ranks import NEVER, judged_ranks, ranks_in
from cnnimretrieval.search.diffusion import diffuse
from cnnimretrieval.search.rerank import RerankConfig, move
from groundwork.shards import Rows


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """The scores by protocol.

    `truncated_to` is the length of the rankings where they end before the database does; `num_not_ranked`
    counts the positives of all queries that lie beyond: they count as never found.
    """

    scores: Mapping[str, Scores]
    truncated_to: int | None
    num_not_ranked: int


def score(
    benchmark: Benchmark,
    queries: Float[np.ndarray, "q d"],
    database: Rows,
    row_of: Int[np.ndarray, " n"],
    rerank: RerankConfig,
) -> Scored:
    """Score the unit descriptors `queries` against `database`, (m, d), by every protocol with positives.

    Photo i of the benchmark is row `row_of[i]` of `database`, and never found where that is -1; the other
    rows are distractors. Neither a matrix of scores nor one of ranks is held.
    """
    judged = [
        np.unique(np.concatenate([rows for truth in truths for rows in (truth.positives, truth.junk)]))
        for truths in zip(*benchmark.protocols.values(), strict=True)
    ]
    rows = [row_of[photos] for photos in judged]
    found = _ranks(queries, database, [some[some >= 0] for some in rows], rerank)
    ranks = [np.full(len(photos), NEVER) for photos in judged]
    for some, all_ranks, its_ranks in zip(rows, ranks, found, strict=True):
        all_ranks[some >= 0] = its_ranks
    scores = {
        protocol: _protocol_scores(relevance, judged, ranks, benchmark.depth)
        for protocol, relevance in benchmark.scored_protocols().items()
    }
    limit = None if rerank.diffusion is None else rerank.diffusion.truncation
    truncated_to = limit if limit is not None and limit < len(database) else None
    return Scored(
        scores=scores,
        truncated_to=truncated_to,
        num_not_ranked=0 if truncated_to is None else _num_positives_beyond(benchmark, judged, rows, ranks),
    )


def _ranks(
    queries: Float[np.ndarray, "q d"],
    database: Rows,
    judged: Sequence[Int[np.ndarray, " j"]],
    config: RerankConfig,
) -> list[Int[np.ndarray, " j"]]:
    moved = move(queries, database, config)
    if config.diffusion is None:
        return judged_ranks(moved.queries, moved.database, judged)
    rankings = diffuse(moved.queries, moved.database, config.diffusion)
    return [ranks_in(ranking.rows[0], rows) for ranking, rows in zip(rankings, judged, strict=True)]


def _protocol_scores(
    relevance: Sequence[Relevance],
    judged: Sequence[Int[np.ndarray, " j"]],
    ranks: Sequence[Int[np.ndarray, " j"]],
    depth: int | None,
) -> Scores:
    places = []
    for truth, photos, its_ranks in zip(relevance, judged, ranks, strict=True):
        positives = its_ranks[np.searchsorted(photos, truth.positives)]
        junk = its_ranks[np.searchsorted(photos, truth.junk)]
        places.append(places_without_junk(positives[positives != NEVER], junk))
    return score_places(places, [len(truth.positives) for truth in relevance], depth=depth)


def _num_positives_beyond(
    benchmark: Benchmark,
    judged: Sequence[Int[np.ndarray, " j"]],
    rows: Sequence[Int[np.ndarray, " j"]],
    ranks: Sequence[Int[np.ndarray, " j"]],
) -> int:
    """Positives of any protocol that are in the database but not in the ranking."""
    total = 0
    for query, (photos, some, its_ranks) in enumerate(zip(judged, rows, ranks, strict=True)):
        truths = [relevance[query] for relevance in benchmark.protocols.values()]
        positive = np.isin(photos, np.concatenate([truth.positives for truth in truths]))
        total += int((positive & (some >= 0) & (its_ranks == NEVER)).sum())
    return total
