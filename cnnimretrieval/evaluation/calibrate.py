"""What scores are worth, learned from held-out queries: each is asked once with its place and once without.

Without its place nothing fits a query, as happens to people: then no result may look sure.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize
from scipy.special import expit

from cnnimretrieval.evaluation.queries import QuerySet, Situation
from cnnimretrieval.search.confidence import Curve, background, depth
from groundwork.top_k import search

# Results of a query that are learned from: what people look at.
_FIRST = 10
# Fewer places teach what they look like, not what scores are worth.
MIN_PLACES = 3
_RIDGE = 1e-3
# An offset of a place in which nothing, or all, is right: a chance as good as none, or as sure.
_FAR = 30.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Results:
    """First results of queries: what each has above the background, whether it is right, and its place.

    `there` tells whether the query was asked with its place, `first` which results stand at the head.
    """

    excess: Float[np.ndarray, " n"]
    right: Bool[np.ndarray, " n"]
    place: Int[np.ndarray, " n"]
    there: Bool[np.ndarray, " n"]
    first: Bool[np.ndarray, " n"]


def first_results(
    queries: QuerySet,
    situation: Situation,
    asked: Float[np.ndarray, "q d"],
    searched: Float[np.ndarray, "n d"],
) -> Results:
    """Of the queries of a situation; junk, of which nobody knows what it shows, is no result."""
    found: list[tuple[float, bool, int, bool, bool]] = []
    for number, vector in zip(situation.queries.tolist(), asked, strict=True):
        near, far, junk = queries.truth(number, situation)
        right = np.concatenate([near, far])
        place = queries.queries[number].place
        for there in (True, False):
            # The background is that of a user's search, with all that is there.
            gone = np.array([], np.int64) if there else np.concatenate([right, junk])
            rows = np.setdiff1d(np.arange(len(searched)), gone)
            if len(rows) <= _FIRST:
                continue
            ranking = search(vector[None], searched[rows], max(depth(len(rows)), _FIRST + len(junk)))
            level = background(ranking.scores[0], len(rows))
            ranked = rows[ranking.rows[0]]
            kept = np.flatnonzero(~np.isin(ranked, junk))[:_FIRST]
            scores = (ranking.scores[0][kept] - level).tolist()
            good = np.isin(ranked[kept], right).tolist()
            found += [
                (score, is_right, place, there, rank == 0)
                for rank, (score, is_right) in enumerate(zip(scores, good, strict=True))
            ]
    columns = list(zip(*found, strict=True)) or [()] * 5
    return Results(
        excess=np.array(columns[0], np.float64),
        right=np.array(columns[1], np.bool_),
        place=np.array(columns[2], np.int64),
        there=np.array(columns[3], np.bool_),
        first=np.array(columns[4], np.bool_),
    )


def fit(results: Results) -> tuple[Curve, ...] | None:
    """The logistic curve through the results of each place, by rising place.

    J. Platt, Probabilistic outputs for support vector machines, 1999, with a ridge on the slope: results of a
    place may fall apart without a doubt, those of the next one will not. None where too few places, or
    results of one kind only, teach nothing, or nowhere a higher score is worth more.
    """
    places = np.unique(results.place)
    if len(places) < MIN_PLACES or results.right.all() or not results.right.any():
        return None
    unit = float(results.excess.std()) or 1.0
    curves = tuple(
        _curve(results.excess[own], results.right[own], unit) for own in results.place == places[:, None]
    )
    return curves if any(curve.slope > 0.0 for curve in curves) else None


def _curve(excess: Float[np.ndarray, " n"], right: Bool[np.ndarray, " n"], unit: float) -> Curve:
    """Of one place; the ridge is of a slope over `unit`, how far the excess of all results spreads."""
    x, sign = excess / unit, np.where(right, 1.0, -1.0)

    def loss(curve: Float[np.ndarray, " 2"]) -> tuple[float, Float[np.ndarray, " 2"]]:
        margin = sign * (curve[0] * x + curve[1])
        pull = -sign * expit(-margin) / len(x)
        value = float(np.logaddexp(0.0, -margin).mean()) + _RIDGE * float(curve[0] ** 2)
        return value, np.array([pull @ x + 2.0 * _RIDGE * curve[0], pull.sum()])

    found = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=((0.0, None), (-_FAR, _FAR)))
    slope, offset = found.x.tolist()
    return Curve(slope=slope / unit, offset=offset)
