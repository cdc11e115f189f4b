"""The shares of a learned whitening, chosen by leaving out training places: no held-out one is looked at."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from jaxtyping import Bool, Float, Int

from cnnimretrieval.evaluation.heldout import prove
from cnnimretrieval.evaluation.queries import QuerySet, Situation
from cnnimretrieval.training.proof.collection_whitening import PairSample, Shares, WhiteningConfig
from cnnimretrieval.whitening.apply import Whitening, apply
from cnnimretrieval.whitening.estimates import pca_metric
from groundwork.progress import progress

logger = logging.getLogger(__name__)

_FOLDS = 4
_SHRINKAGES = (0.1, 0.25, 0.5, 0.75, 0.9)
_COLLECTION_SHARES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
# Where nothing can be left out.
_UNCHOSEN_SHRINKAGE, _UNCHOSEN_COLLECTION_SHARE = 0.75, 0.1


@dataclass(frozen=True, kw_only=True, eq=False)
class _Fold:
    """Training places left out: their numbers, their queries, and all images that go with them."""

    places: Int[np.ndarray, " p"]
    queries: Int[np.ndarray, " q"]
    images: Bool[np.ndarray, " n"]


def choose_shares(
    sample: PairSample,
    queries: QuerySet,
    query_vectors: Float[np.ndarray, "q d"],
    config: WhiteningConfig,
    seed: int,
) -> Shares:
    """The shares in `config`, with numbers in place of what is to be chosen there.

    Training places are left out in turn, with their part of the photos without a place. The shares with the
    highest mAP, averaged over the queries of these places in three situations as in `evaluation.queries`, are
    taken: among photos that were left out too, among photos that were not, and as places learned from.
    `query_vectors` are of all `queries`, not whitened.
    """
    if not config.is_chosen:
        return config.given
    folds = list(_folds(queries, seed))
    if not folds:
        shares = _unchosen(config)
        logger.warning("whitening: too few training places to choose its shares by; %s are taken", shares)
        return shares
    tried = [_Trial(sample, queries, query_vectors, fold) for fold in folds]
    grid = [
        replace(config.given, shrinkage=shrinkage, collection=share)
        for shrinkage, share in product(
            _SHRINKAGES if config.shrinkage == "chosen" else (config.given.shrinkage,),
            _COLLECTION_SHARES if config.collection_share == "chosen" else (config.given.collection,),
        )
    ]
    each = progress(grid, desc="choose the whitening's shares", unit="choice")
    scores: dict[Shares, float] = {
        shares: float(np.mean([trial.score(shares) for trial in tried])) for shares in each
    }
    best = max(scores, key=scores.__getitem__)
    if config.shrinkage == "chosen":
        by_pca = {one: float(np.mean([trial.pca_score(one) for trial in tried])) for one in _SHRINKAGES}
        best = replace(best, pca_shrinkage=max(by_pca, key=by_pca.__getitem__))
    logger.info("whitening: %s, mAP %.4f with training places left out", best, max(scores.values()))
    return best


def _unchosen(config: WhiteningConfig) -> Shares:
    shares = config.given
    if config.shrinkage == "chosen":
        shares = replace(shares, shrinkage=_UNCHOSEN_SHRINKAGE, pca_shrinkage=_UNCHOSEN_SHRINKAGE)
    if config.collection_share == "chosen":
        shares = replace(shares, collection=_UNCHOSEN_COLLECTION_SHARE)
    return shares


def _folds(queries: QuerySet, seed: int) -> Iterator[_Fold]:
    """Training places dealt out, with the queries of theirs to choose by."""
    table = queries.table
    place = np.array([query.place for query in queries.queries])
    is_held_out = np.isin(place, table.place[table.is_val])
    ours = np.array([query.purpose == "choose" for query in queries.queries]) & ~is_held_out
    places = np.random.default_rng(seed).permutation(np.unique(place[ours]))
    loose = np.flatnonzero(~table.is_val & (table.place < 0))
    count = min(_FOLDS, len(places) // 2)
    for number in range(count):
        left_out = places[number::count]
        images = np.isin(table.place, left_out)
        images[loose[number::count]] = True
        yield _Fold(places=left_out, queries=np.flatnonzero(ours & np.isin(place, left_out)), images=images)


class _Trial:
    """One fold's queries in the three situations, with what a whitening is learned from in each."""

    def __init__(
        self, sample: PairSample, queries: QuerySet, query_vectors: Float[np.ndarray, "q d"], fold: _Fold
    ) -> None:
        self._queries, self._query_vectors, self._database = queries, query_vectors, sample.database
        fitted, others = ~queries.table.is_val, sample.without(fold.places)
        among_others = Situation(
            name="unseen_database", queries=fold.queries, database=np.flatnonzero(fold.images)
        )
        among_all = Situation(name="own_places", queries=fold.queries, database=np.flatnonzero(fitted))
        self._situations = (
            (among_others, others.statistics(fitted & ~fold.images)),
            (among_all, others.statistics(fitted)),
            (among_all, sample.statistics(fitted)),
        )
        self._fitted = ((among_others, fitted & ~fold.images), (among_all, fitted))

    def score(self, shares: Shares) -> float:
        """Mean mAP of learned whitening over the situations."""
        metrics = (
            (situation, of.metric(shrinkage=shares.shrinkage, collection_share=shares.collection))
            for situation, of in self._situations
        )
        return float(np.mean([self._map(*one) for one in metrics]))

    def pca_score(self, shrinkage: float) -> float:
        """Mean mAP of PCA whitening over the situations, of which two are one to it."""
        metrics = (
            (situation, pca_metric(self._database[rows], shrinkage)) for situation, rows in self._fitted
        )
        return float(np.mean([self._map(*one) for one in metrics]))

    def _map(self, situation: Situation, metric: Whitening) -> float:
        return prove(
            self._queries,
            situation,
            apply(metric, self._query_vectors[situation.queries]),
            apply(metric, situation.searched(self._database)),
        ).map_of_details
