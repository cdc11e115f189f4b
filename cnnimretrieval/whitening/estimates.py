"""Estimates of a whitening: learned from matching pairs, or by PCA.

Descriptors may be a memory map of float32; what is estimated is float64.
"""

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int

from cnnimretrieval.whitening.apply import Whitening, check_dim
from cnnimretrieval.whitening.covariance import (
    falling_eigh,
    num_axes,
    root,
    towards,
    transformed,
    worst_condition,
)
from cnnimretrieval.whitening.moments import (
    Moments,
    centred_moments,
    mean_of,
    pair_moments,
    shrinkage_of,
)

# From so many pairs (or rows) a dimension on, a covariance is taken as it is.
_ROWS_A_DIMENSION = 2
# What is chosen is at least this share: it bounds how much the weakest direction is amplified, to 32 times
# what it is in one of mean variance.
_LEAST_SHRINKAGE = 1e-3


def learn_whitening(
    vectors: Float[np.ndarray, "n d"],
    queries: Int[np.ndarray, " m"],
    positives: Int[np.ndarray, " m"],
    *,
    query_vectors: Float[np.ndarray, "q d"] | None = None,
    dim: int | None = None,
    shrinkage: float | None = None,
    collection_share: float = 0.0,
) -> Whitening:
    """Whitening that makes differences of matching pairs white, its axes by falling scatter of the images.

    With m the mean of the query rows, S = mean (x_q - x_p)(x_q - x_p)^T = L L^T and C = mean (x - m)(x -
    m)^T over all rows: P = V^T L^-1, where V holds the eigenvectors of L^-1 C L^-T by falling eigenvalue.
    Mikolajczyk and Matas, ICCV 2007; Radenovic et al., TPAMI 2019 (which writes S^-1/2; any root gives the
    same up to a rotation, which the eigenvectors undo).

    `positives` are rows of `vectors`, the collection; `queries` are rows of `query_vectors`, which may be
    other views of the queries than the collection's, and are rows of `vectors` when it is not given.

    Two shares, not in the paper, make few pairs usable. With fewer pairs than dimensions S has a null space,
    which plain inversion would blow up, and pairs of a few places say little about the rest of the world:

        S' = (1 - shrinkage) [(1 - collection_share) S + collection_share s C / trace(C)] + shrinkage s I/d

    with s = trace(S), so that S' keeps the size of S. `collection_share` = 1 is PCA whitening with the same
    shrinkage, about the queries' mean. A `shrinkage` of None is 0, as published, where at least two pairs a
    dimension determine S; otherwise it is `moments.shrinkage_of` the pairs, at least 0.001, and `note` says
    so.

    `dim` keeps the first axes. Axes in which the images do not vary are left out, so the result may have
    fewer; `note` says how many. ValueError when pairs do not differ, or S' of a given shrinkage cannot be
    inverted.
    """
    query_vectors = vectors if query_vectors is None else query_vectors
    _check(vectors, dim, shrinkage)
    _check_pairs(query_vectors, queries, vectors, positives, collection_share)
    d = vectors.shape[1]
    mean = mean_of(query_vectors, queries)
    collection = centred_moments(vectors, mean)
    pairs = pair_moments(query_vectors, queries, vectors, positives)
    if not pairs.second.any():
        raise ValueError(
            f"learned whitening: expected pairs of different descriptors, got {len(queries)} pairs of equal "
            "ones; mine other pairs"
        )
    mixed = towards(pairs.second, collection.second, collection_share)
    lower, used = _root_of_pairs(mixed, pairs, shrinkage, collection_share)
    eigenvalues, axes = falling_eigh(transformed(collection.second, lower), collection.rounding)
    kept = num_axes(eigenvalues, dim, collection.rounding)
    projection = scipy.linalg.solve_triangular(
        lower, axes[:, :kept], lower=True, trans="T", check_finite=False
    ).T
    chosen = " chosen for so few pairs" if shrinkage is None and used > 0.0 else ""
    note = (
        f"learned from {len(queries)} pairs and {len(vectors)} descriptors, {kept} of {d} dimensions, "
        f"shrinkage {used:.4g}{chosen}, collection_share {collection_share:g}"
    )
    return Whitening(mean=mean, projection=np.ascontiguousarray(projection), kind="learned", note=note)


def pca_whitening(
    vectors: Float[np.ndarray, "n d"], *, dim: int | None = None, shrinkage: float | None = None
) -> Whitening:
    """PCA whitening: P = Lambda^-1/2 V^T of the covariance (over n, not n - 1) of the centred rows.

    Jegou and Chum, ECCV 2012. `shrinkage` in [0, 1] moves every eigenvalue towards their mean, which bounds
    how much weak directions are amplified; None chooses it as `learn_whitening` does, by the number of rows.
    Directions without variance are left out, so the result may have fewer than `dim` rows (at most n - 1);
    `note` says how many. ValueError when the rows are all equal.
    """
    _check(vectors, dim, shrinkage)
    n, d = vectors.shape
    mean = mean_of(vectors, np.arange(n))
    moments = centred_moments(vectors, mean)
    eigenvalues, axes = falling_eigh(moments.second, moments.rounding)
    if eigenvalues[0] <= moments.rounding * float(mean @ mean):
        raise ValueError(
            f"PCA whitening: expected rows that differ, got {n} equal ones; give more descriptors"
        )
    kept = num_axes(eigenvalues, dim, moments.rounding)
    used = shrinkage
    if used is None:
        sound = n >= _ROWS_A_DIMENSION * d and eigenvalues[-1] > moments.rounding * eigenvalues[0]
        used = 0.0 if sound else max(shrinkage_of(moments), _LEAST_SHRINKAGE)
    shrunk = (1.0 - used) * eigenvalues + used * eigenvalues.clip(min=0.0).mean()
    projection = (axes[:, :kept] / np.sqrt(shrunk[:kept])).T
    chosen = " chosen for so few" if shrinkage is None and used > 0.0 else ""
    note = f"PCA of {n} descriptors, {kept} of {d} dimensions, shrinkage {used:.4g}{chosen}"
    return Whitening(mean=mean, projection=np.ascontiguousarray(projection), kind="pca", note=note)


def _check(vectors: Float[np.ndarray, "n d"], dim: int | None, shrinkage: float | None) -> None:
    if vectors.ndim != 2 or len(vectors) < 2:
        raise ValueError(
            f"whitening: expected at least 2 rows of descriptors, got shape {vectors.shape}; give more images"
        )
    if shrinkage is not None and not 0.0 <= shrinkage <= 1.0:
        raise ValueError(f"whitening: expected a shrinkage in [0, 1], got {shrinkage}; choose one of them")
    check_dim(dim, vectors.shape[1])


def _check_pairs(
    query_vectors: Float[np.ndarray, "q d"],
    queries: Int[np.ndarray, " m"],
    vectors: Float[np.ndarray, "n d"],
    positives: Int[np.ndarray, " m"],
    collection_share: float,
) -> None:
    if not 0.0 <= collection_share <= 1.0:
        raise ValueError(
            f"whitening: expected a collection_share in [0, 1], got {collection_share}; choose one of them"
        )
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
    few = collection_share == 0.0 and pairs.count < _ROWS_A_DIMENSION * d
    if shrinkage is not None or not few:
        lower = root(towards(mixed, identity, shrinkage or 0.0), worst_condition(pairs.rounding))
        if lower is not None:
            return lower, shrinkage or 0.0
    if shrinkage is None:
        chosen = max(shrinkage_of(pairs), _LEAST_SHRINKAGE)
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
