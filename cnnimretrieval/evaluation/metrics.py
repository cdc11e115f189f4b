"""Scores of rankings against ground truth: average precision, precision and recall at k, without junk."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

# Of fewer places nothing is claimed: that all of four are better happens by chance once in sixteen times, of
# five once in thirty-two, the first below one in twenty.
MIN_PLACES = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class Relevance:
    """Ground truth of one query: database rows that show the same, and rows to be ignored."""

    positives: Int[np.ndarray, " p"]
    junk: Int[np.ndarray, " j"]

    def __post_init__(self) -> None:
        judged = np.concatenate((self.positives, self.junk))
        _check_rows(judged, "ground truth")
        twice = _first_repeated(judged)
        if twice is not None:
            raise ValueError(
                f"ground truth: expected every row once, in positives or in junk, got row {twice} twice; "
                "remove one of the two"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """Means over the queries that have positives, and the numbers of every query (NaN for those without)."""

    mean_average_precision: float
    mean_precision: Float[np.ndarray, " k"]
    mean_recall: Float[np.ndarray, " k"]
    cutoffs: tuple[int, ...]
    average_precision: Float[np.ndarray, " q"]
    precision: Float[np.ndarray, "q k"]
    recall: Float[np.ndarray, "q k"]
    num_scored: int
    num_without_positives: int


def score_rankings(
    rankings: Iterable[Int[np.ndarray, " r"]],
    relevance: Sequence[Relevance],
    cutoffs: Sequence[int] = (1, 5, 10),
) -> Scores:
    """Score one ranking (database rows, best first) per query; rows of a matrix serve as well.

    A ranking may be cut off anywhere: positives that it misses count as never found. Queries without
    positives leave the means and are counted. ValueError when a row appears twice in a ranking or no query
    has a positive.
    """
    given = list(rankings)
    if len(given) != len(relevance):
        raise ValueError(
            f"rankings: expected one for each of {len(relevance)} queries, got {len(given)}; rank every query"
        )
    places = [found_places(ranking, truth) for ranking, truth in zip(given, relevance, strict=True)]
    return score_places(places, [len(truth.positives) for truth in relevance], cutoffs)


def score_places(
    places: Sequence[Int[np.ndarray, " f"]],
    num_positives: Sequence[int],
    cutoffs: Sequence[int] = (1, 5, 10),
    depth: int | None = None,
) -> Scores:
    """Score queries by the `places`, zero-based and rising, of those of their positives that were found.

    Average precision is by trapezoids over the whole ranking, or with `depth` that of
    `average_precision_at`. ValueError when no query has a positive.
    """
    if min(cutoffs, default=1) < 1:
        raise ValueError(f"cutoffs: expected ranks from 1, got {min(cutoffs)}; leave it out")
    queries = list(zip(places, num_positives, strict=True))
    if depth is None:
        ap = np.array([average_precision(found, n) for found, n in queries])
    else:
        ap = np.array([average_precision_at(depth, found, n) for found, n in queries])
    precision = np.array([[precision_at(k, found, n) for k in cutoffs] for found, n in queries])
    recall = np.array([[recall_at(k, found, n) for k in cutoffs] for found, n in queries])
    scored = np.array(num_positives) > 0
    if not scored.any():
        raise ValueError(
            f"evaluation: expected a query with positives, got none among {len(queries)}; "
            "check the ground truth"
        )
    return Scores(
        mean_average_precision=float(ap[scored].mean()),
        mean_precision=precision[scored].mean(axis=0),
        mean_recall=recall[scored].mean(axis=0),
        cutoffs=tuple(cutoffs),
        average_precision=ap,
        precision=precision,
        recall=recall,
        num_scored=int(scored.sum()),
        num_without_positives=int((~scored).sum()),
    )


def found_places(ranking: Int[np.ndarray, " r"], truth: Relevance) -> Int[np.ndarray, " f"]:
    """Zero-based places of the positives in `ranking` once junk is taken out, rising."""
    _check_rows(np.asarray(ranking), "ranking")
    twice = _first_repeated(np.asarray(ranking))
    if twice is not None:
        raise ValueError(f"ranking: expected every row once, got row {twice} twice; rank each row once")
    is_junk: Bool[np.ndarray, " r"] = np.isin(ranking, truth.junk)
    return np.flatnonzero(np.isin(np.asarray(ranking)[~is_junk], truth.positives))


def places_without_junk(
    positives: Int[np.ndarray, " p"], junk: Int[np.ndarray, " j"]
) -> Int[np.ndarray, " p"]:
    """Zero-based places of the positives, rising, once junk is taken out; from ranks in the whole ranking."""
    rising = np.sort(positives)
    return rising - np.searchsorted(np.sort(junk), rising)


def average_precision(places: Int[np.ndarray, " f"], num_positives: int) -> float:
    """Area under the precision-recall curve by trapezoids; NaN without positives.

    AP = sum_j (p0 + p1) / (2 num_positives), p0 = j / r (1 if r = 0), p1 = (j + 1) / (r + 1), for the j-th
    positive at place r, both zero-based. Philbin et al., CVPR 2007 (Oxford buildings); kept in Radenovic et
    al., CVPR 2018. A lone positive at the second place therefore scores 0.25, not 0.5.
    """
    if num_positives == 0:
        return float("nan")
    order = np.arange(len(places))
    before = np.where(places == 0, 1.0, order / np.maximum(places, 1))
    after = (order + 1) / (places + 1)
    return float((before + after).sum() / (2 * num_positives))


def average_precision_at(depth: int, places: Int[np.ndarray, " f"], num_positives: int) -> float:
    """Mean precision at the positives among the first `depth` places; NaN without positives.

    AP = sum_j (j + 1) / (r + 1) / min(num_positives, depth), for the j-th positive at place r < depth, both
    zero-based. Weyand et al., CVPR 2020 (Google Landmarks v2, depth 100): no trapezoids here.
    """
    if num_positives == 0:
        return float("nan")
    early = places[places < depth]
    precision = (np.arange(len(early)) + 1) / (early + 1)
    return float(precision.sum() / min(num_positives, depth))


def precision_at(k: int, places: Int[np.ndarray, " f"], num_positives: int) -> float:
    """Share of positives among the first min(k, place of the last positive) places; NaN without positives.

    Radenovic et al., CVPR 2018: a query with fewer than k positives is not punished for having so few. 0
    when none is found.
    """
    if num_positives == 0:
        return float("nan")
    if len(places) == 0:
        return 0.0
    considered = min(k, int(places[-1]) + 1)
    return float((places < considered).sum() / considered)


def recall_at(k: int, places: Int[np.ndarray, " f"], num_positives: int) -> float:
    """1 when at least one positive is among the first k places, else 0; NaN without positives."""
    if num_positives == 0:
        return float("nan")
    return float(len(places) > 0 and places[0] < k)


def _check_rows(rows: np.ndarray, what: str) -> None:
    """ValueError unless these are rows of a database, which may be none."""
    if rows.ndim == 1 and (rows.size == 0 or (np.issubdtype(rows.dtype, np.integer) and rows.min() >= 0)):
        return
    got = f"{rows.dtype} of shape {rows.shape}"
    if rows.ndim == 1 and np.issubdtype(rows.dtype, np.integer):
        got = f"row {rows.min()}"
    raise ValueError(f"{what}: expected rows of the database, from 0, got {got}; give their numbers")


def _first_repeated(rows: Int[np.ndarray, " r"]) -> int | None:
    ordered = np.sort(rows)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    return int(repeated[0]) if repeated.size else None
