"""What a learned whitening is estimated from, gathered once: the moments of pairs and of the collection."""

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int

from cnnimretrieval.whitening.apply import Whitening
from cnnimretrieval.whitening.covariance import (
    falling_eigh,
    num_axes,
    root,
    towards,
    transformed,
    worst_condition,
)
from cnnimretrieval.whitening.moments import Moments, centred_moments, mean_of, pair_moments, shrinkage_of

# From so many pairs (or rows) a dimension on, a covariance is taken as it is.
ROWS_A_DIMENSION = 2
# What is chosen is at least this share: it bounds how much the weakest direction is amplified, to 32 times
# what it is in one of mean variance.
LEAST_SHRINKAGE = 1e-3


@dataclass(frozen=True, kw_only=True, eq=False)
class PairStatistics:
    """The mean of the queries, and the moments of pairs and of the collection about it.

    `estimates.learn_whitening` says what becomes of them; other shares cost no other look at descriptors.
    """

    mean: Float[np.ndarray, " d"]
    collection: Moments
    pairs: Moments

    def whitening(self, *, dim: int | None, shrinkage: float | None, collection_share: float) -> Whitening:
        """The learned whitening; ValueError as `estimates.learn_whitening`."""
        lower, used = self._root(shrinkage, collection_share)
        rounding = self.collection.rounding
        eigenvalues, axes = falling_eigh(transformed(self.collection.second, lower), rounding)
        kept, d = num_axes(eigenvalues, dim, rounding), len(self.mean)
        projection = scipy.linalg.solve_triangular(
            lower, axes[:, :kept], lower=True, trans="T", check_finite=False
        ).T
        chosen = " chosen for so few pairs" if shrinkage is None and used > 0.0 else ""
        note = (
            f"learned from {self.pairs.count} pairs and {self.collection.count} descriptors, {kept} of {d} "
            f"dimensions, shrinkage {used:.4g}{chosen}, collection_share {collection_share:g}"
        )
        return Whitening(
            mean=self.mean, projection=np.ascontiguousarray(projection), kind="learned", note=note
        )

    def metric(self, *, shrinkage: float | None, collection_share: float) -> Whitening:
        """A whitening of all axes that gives the same inner products as the learned one, without its axes.

        It leaves out the eigenvectors, which are most of the work: for trying many shares.
        """
        lower, used = self._root(shrinkage, collection_share)
        inverse = scipy.linalg.solve_triangular(lower, np.eye(len(lower)), lower=True, check_finite=False)
        note = f"metric, shrinkage {used:.4g}, collection_share {collection_share:g}"
        return Whitening(mean=self.mean, projection=inverse, kind="learned", note=note)

    def _root(
        self, shrinkage: float | None, collection_share: float
    ) -> tuple[Float[np.ndarray, "d d"], float]:
        if not 0.0 <= collection_share <= 1.0:
            raise ValueError(
                f"whitening: expected a collection_share in [0, 1], got {collection_share}; "
                "choose one of them"
            )
        mixed = towards(self.pairs.second, self.collection.second, collection_share)
        return _root_of_pairs(mixed, self.pairs, shrinkage, collection_share)


def gather(
    vectors: Float[np.ndarray, "n d"],
    queries: Int[np.ndarray, " m"],
    positives: Int[np.ndarray, " m"],
    *,
    query_vectors: Float[np.ndarray, "q d"] | None = None,
) -> PairStatistics:
    """The statistics of pairs (row of `query_vectors`, row of `vectors`), and of all `vectors`.

    `query_vectors` are `vectors` when not given. ValueError for rows that are not there, and
    pairs that do not differ.
    """
    query_vectors = vectors if query_vectors is None else query_vectors
    _check_pairs(query_vectors, queries, vectors, positives)
    mean = mean_of(query_vectors, queries)
    collection = centred_moments(vectors, mean)
    pairs = pair_moments(query_vectors, queries, vectors, positives)
    if not pairs.second.any():
        raise ValueError(
            f"learned whitening: expected pairs of different descriptors, got {len(queries)} pairs of equal "
            "ones; mine other pairs"
        )
    return PairStatistics(mean=mean, collection=collection, pairs=pairs)


def _check_pairs(
    query_vectors: Float[np.ndarray, "q d"],
    queries: Int[np.ndarray, " m"],
    vectors: Float[np.ndarray, "n d"],
    positives: Int[np.ndarray, " m"],
) -> None:
    if len(queries) != len(positives) or not len(queries):
        raise ValueError(
            f"learned whitening: expected as many queries as positives and at least one, got {len(queries)} "
            f"and {len(positives)}; give one positive for each query"
        )
    for what, rows, of in (("queries", queries, query_vectors), ("positives", positives, vectors)):
        if rows.min() < 0 or rows.max() >= len(of):
            raise ValueError(
                f"learned whitening: expected {what} among the rows 0 to {len(of) - 1}, got {rows.min()} to "
                f"{rows.max()}; give rows of the descriptors"
            )


def _root_of_pairs(
    mixed: Float[np.ndarray, "d d"], pairs: Moments, shrinkage: float | None, collection_share: float
) -> tuple[Float[np.ndarray, "d d"], float]:
    """L with L L^T = S', and the shrinkage in it, chosen where none is given."""
    d = len(mixed)
    identity = np.eye(d)
    few = collection_share == 0.0 and pairs.count < ROWS_A_DIMENSION * d
    if shrinkage is not None or not few:
        lower = root(towards(mixed, identity, shrinkage or 0.0), worst_condition(pairs.rounding))
        if lower is not None:
            return lower, shrinkage or 0.0
    if shrinkage is None:
        chosen = max(shrinkage_of(pairs), LEAST_SHRINKAGE)
        lower = root(towards(mixed, identity, chosen), np.inf)
        assert lower is not None  # its condition is at most d / chosen
        return lower, chosen
    if pairs.count < d:
        raise ValueError(
            f"learned whitening: expected at least {d} matching pairs for {d}-D descriptors, got "
            f"{pairs.count}; mine more pairs, reduce the descriptor first, or set whitening.shrinkage"
        )
    raise ValueError(
        f"learned whitening: expected pair differences in all {d} dimensions, got a covariance "
        f"of condition above {worst_condition(pairs.rounding):.0e} at shrinkage {shrinkage:g}; "
        "mine more varied pairs or set whitening.shrinkage"
    )
