"""Differences of two systems on the same queries, with a bootstrap interval over places.

Queries of one place resemble each other, so places are drawn and not queries: whoever draws queries takes ten
views of one building for ten proofs.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from groundwork.random_streams import random_stream
from groundwork.settings import Values

DRAWS = 10_000
_LEVEL = 0.95
# Draws times places that are held at a time.
_BLOCK = 4_000_000

Mean = Literal["places", "queries"]


class Difference(Values):
    """Mean of B - A and its 95 % interval; None where fewer than two places leave it unknown.

    `better` and `worse` count the places, or the queries, whose own difference is above or below 0.
    """

    mean: float
    low: float | None
    high: float | None
    count: int
    better: int
    worse: int

    @property
    def beyond_chance(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low is not None and self.high is not None and (self.low > 0.0 or self.high < 0.0)


def paired_difference(
    a: Float[np.ndarray, " q"],
    b: Float[np.ndarray, " q"],
    place: Int[np.ndarray, " q"],
    mean: Mean,
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> Difference:
    """How much B scores above A on the same queries: the mean over places of their means, or over queries.

    The interval is the percentile bootstrap (Efron, 1979) of `draws` draws of places with replacement, all
    queries of a place with it. ValueError without queries or for scores that are not finite.
    """
    if not len(a) or not len(a) == len(b) == len(place):
        raise ValueError(
            f"comparison: expected scores of the same queries, got {len(a)}, {len(b)} and {len(place)} "
            "places; compare runs that share queries"
        )
    differences = b - a
    if not np.isfinite(differences).all():
        raise ValueError("comparison: expected finite scores, got NaN or infinity; score the runs again")
    _, of_place = np.unique(place, return_inverse=True)
    sums: Float[np.ndarray, " p"] = np.bincount(of_place, differences)
    counts: Float[np.ndarray, " p"] = np.bincount(of_place, np.ones(len(differences)))
    own = differences
    if mean == "places":
        own = sums = sums / counts
        counts = np.ones(len(sums))
    low, high = _interval(sums, counts, seed, draws) if len(sums) > 1 else (None, None)
    return Difference(
        mean=float(sums.sum() / counts.sum()),
        low=low,
        high=high,
        count=len(own),
        better=int((own > 0.0).sum()),
        worse=int((own < 0.0).sum()),
    )


def _interval(
    sums: Float[np.ndarray, " p"], counts: Float[np.ndarray, " p"], seed: int, draws: int
) -> tuple[float, float]:
    generator = random_stream(seed, "bootstrap")
    means, rows = [], max(1, _BLOCK // len(sums))
    for start in range(0, draws, rows):
        drawn = generator.integers(0, len(sums), (min(rows, draws - start), len(sums)))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    tail = (1.0 - _LEVEL) / 2.0
    low, high = np.quantile(np.concatenate(means), [tail, 1.0 - tail])
    return float(low), float(high)
