"""Descriptors of a benchmark to its scores: rank, by inner product or re-ranked, and compare."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from cnnimretrieval.evaluation.benchmark import Benchmark
from cnnimretrieval.evaluation.metrics import Relevance, Scores, places_without_junk, score_places
from cnnimretrieval.evaluation.ranks import NEVER, judged_ranks, ranks_in
from cnnimretrieval.search.diffusion import diffuse
from cnnimretrieval.search.photo_rows import ByPhoto, PhotoRows
from cnnimretrieval.search.rerank import Moved, RerankConfig, move
from cnnimretrieval.search.spatial import Verifier, spatial_order
from groundwork.shards import Rows
from groundwork.top_k import Ranking, search

# The ranks of judged rows of a database for each query.
RanksOf = Callable[
    [Float[np.ndarray, "q d"], Rows, Sequence[Int[np.ndarray, " j"]]], list[Int[np.ndarray, " j"]]
]


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
    verifiers: Sequence[Verifier] = (),
    photo_rows: PhotoRows | None = None,
    ranks_of: RanksOf = judged_ranks,
) -> Scored:
    """Score the unit descriptors `queries` against `database`, (m, d), by every protocol with positives.

    Photo i of the benchmark is row `row_of[i]` of `database`, and never found where that is -1; the other
    rows are distractors. Neither a matrix of scores nor one of ranks is held. Where `photo_rows` says that
    photos have several rows, photos are ranked by the best of them, and `row_of` has the first of each.

    A spatial step, for which there is one of `verifiers` a query, looks at the first photos of a ranking that
    are no junk: each protocol has candidates of its own. Where nothing re-ranks, `ranks_of` tells the
    ranks, which may be among rows that `database` lacks, too.
    """
    judged = [
        np.unique(np.concatenate([rows for truth in truths for rows in (truth.positives, truth.junk)]))
        for truths in zip(*benchmark.protocols.values(), strict=True)
    ]
    rows = [row_of[photos] for photos in judged]
    by_photo = None if photo_rows is None else ByPhoto(photo_rows, database)
    moved = move(queries, database, rerank, by_photo, verifiers)
    found, heads = _ranks(moved, [some[some >= 0] for some in rows], rerank, by_photo, ranks_of)
    ranks = [np.full(len(photos), NEVER) for photos in judged]
    for some, all_ranks, its_ranks in zip(rows, ranks, found, strict=True):
        all_ranks[some >= 0] = its_ranks
    spatial = [_Spatial(head, verifier) for head, verifier in zip(heads, verifiers, strict=False)]
    queries_judged = [
        _Judged(photos=photos, rows=some, ranks=its_ranks)
        for photos, some, its_ranks in zip(judged, rows, ranks, strict=True)
    ]
    scores = {
        protocol: _protocol_scores(relevance, queries_judged, spatial, benchmark.depth)
        for protocol, relevance in benchmark.scored_protocols().items()
    }
    limit = None if rerank.diffusion is None else rerank.diffusion.truncation
    searched = len(database) if photo_rows is None else len(photo_rows.photos)
    truncated_to = limit if limit is not None and limit < searched else None
    return Scored(
        scores=scores,
        truncated_to=truncated_to,
        num_not_ranked=0 if truncated_to is None else _num_positives_beyond(benchmark, judged, rows, ranks),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Judged:
    """The judged photos of a query, rising, with their rows and ranks in the whole ranking."""

    photos: Int[np.ndarray, " j"]
    rows: Int[np.ndarray, " j"]
    ranks: Int[np.ndarray, " j"]

    def of(self, some: Int[np.ndarray, " s"]) -> Int[np.ndarray, " s"]:
        """Positions of some of the photos."""
        return np.searchsorted(self.photos, some)


@dataclass(frozen=True, eq=False)
class _Spatial:
    """The first rows of a query's ranking, and what geometry proves of them."""

    head: Ranking
    verifier: Verifier

    def candidates(self, junk: Int[np.ndarray, " k"]) -> Int[np.ndarray, " c"]:
        """The candidates in their new order, once junk rows are taken out."""
        no_junk = np.flatnonzero(~np.isin(self.head.rows[0], junk))[: self.verifier.config.candidates]
        rows: np.ndarray = self.head.rows[0, no_junk]
        order = spatial_order(self.head.scores[0, no_junk], self.verifier.inliers(rows), self.verifier.config)
        reordered: np.ndarray = rows[order]
        return reordered


def _ranks(
    moved: Moved,
    judged: Sequence[Int[np.ndarray, " j"]],
    config: RerankConfig,
    by_photo: ByPhoto | None = None,
    ranks_of: RanksOf = judged_ranks,
) -> tuple[list[Int[np.ndarray, " j"]], list[Ranking]]:
    """Ranks of the judged rows, and with a spatial step the heads of the rankings that it looks at."""
    # Whatever of it is junk: as many candidates are left.
    depth = 0 if config.spatial is None else config.spatial.candidates + max(map(len, judged))
    if config.diffusion is None and by_photo is None:
        ranks = ranks_of(moved.queries, moved.database, judged)
        if not depth:
            return ranks, []
        found = search(moved.queries, moved.database, depth)
        parts = zip(found.rows, found.scores, strict=True)
        return ranks, [Ranking(rows=rows[None], scores=scores[None]) for rows, scores in parts]
    ranks, heads = [], []
    for ranking, rows in zip(_whole_rankings(moved, config, by_photo), judged, strict=True):
        ranks.append(ranks_in(ranking.rows[0], rows))
        heads.append(Ranking(rows=ranking.rows[:, :depth], scores=ranking.scores[:, :depth]))
    return ranks, heads


def _whole_rankings(moved: Moved, config: RerankConfig, by_photo: ByPhoto | None) -> Iterator[Ranking]:
    """One query's ranking at a time; where photos have several rows, each by the first of them."""
    if config.diffusion is not None:
        rankings = diffuse(moved.queries, moved.database, config.diffusion, by_photo)
    else:
        assert by_photo is not None
        rankings = (by_photo(query[None], len(moved.database)) for query in moved.queries)
    for ranking in rankings:
        rows = ranking.rows if by_photo is None else by_photo.photo_rows.first_row[ranking.rows]
        yield Ranking(rows=rows, scores=ranking.scores)


def _protocol_scores(
    relevance: Sequence[Relevance],
    judged: Sequence[_Judged],
    spatial: Sequence[_Spatial],
    depth: int | None,
) -> Scores:
    places = []
    for query, (truth, its) in enumerate(zip(relevance, judged, strict=True)):
        positives, junk = its.of(truth.positives), its.of(truth.junk)
        in_ranking = positives[its.ranks[positives] != NEVER]
        without_junk = _places(its.ranks[in_ranking], its.ranks[junk])
        if spatial:
            candidates = spatial[query].candidates(its.rows[junk])
            anew = ranks_in(candidates, its.rows[in_ranking])
            without_junk = np.where(anew == NEVER, without_junk, anew)
        places.append(np.sort(without_junk))
    return score_places(places, [len(truth.positives) for truth in relevance], depth=depth)


def _places(ranks: Int[np.ndarray, " p"], junk: Int[np.ndarray, " j"]) -> Int[np.ndarray, " p"]:
    """`places_without_junk` of each rank, in the order of the ranks."""
    order = np.argsort(ranks, kind="stable")
    places = np.empty(len(ranks), np.int64)
    places[order] = places_without_junk(ranks, junk)
    return places


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
