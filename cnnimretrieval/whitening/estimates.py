"""Estimates of a whitening: learned from matching pairs, or by PCA.

Descriptors may be a memory map of float32; what is estimated is float64.
"""

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int

from cnnimretrieval.whitening.apply import Whitening, check_dim
from cnnimretrieval.whitening.covariance import falling_eigh, num_axes, root, towards
from cnnimretrieval.whitening.moments import centred_moments, mean_of, shrinkage_of
from cnnimretrieval.whitening.pair_statistics import LEAST_SHRINKAGE, ROWS_A_DIMENSION, gather


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
    _check(vectors, dim, shrinkage)
    statistics = gather(vectors, queries, positives, query_vectors=query_vectors)
    return statistics.whitening(dim=dim, shrinkage=shrinkage, collection_share=collection_share)


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
        sound = n >= ROWS_A_DIMENSION * d and eigenvalues[-1] > moments.rounding * eigenvalues[0]
        used = 0.0 if sound else max(shrinkage_of(moments), LEAST_SHRINKAGE)
    shrunk = (1.0 - used) * eigenvalues + used * eigenvalues.clip(min=0.0).mean()
    projection = (axes[:, :kept] / np.sqrt(shrunk[:kept])).T
    chosen = " chosen for so few" if shrinkage is None and used > 0.0 else ""
    note = f"PCA of {n} descriptors, {kept} of {d} dimensions, shrinkage {used:.4g}{chosen}"
    return Whitening(mean=mean, projection=np.ascontiguousarray(projection), kind="pca", note=note)


def pca_metric(vectors: Float[np.ndarray, "n d"], shrinkage: float) -> Whitening:
    """A whitening of all axes with the inner products of `pca_whitening`, without its axes.

    It leaves out the eigenvectors, which are most of the work: for trying many values of `shrinkage` > 0.
    """
    _check(vectors, None, shrinkage)
    mean = mean_of(vectors, np.arange(len(vectors)))
    covariance = centred_moments(vectors, mean).second
    lower = root(towards(covariance, np.eye(len(mean)), shrinkage), np.inf)
    assert lower is not None  # its condition is at most d / shrinkage
    inverse = scipy.linalg.solve_triangular(lower, np.eye(len(mean)), lower=True, check_finite=False)
    return Whitening(mean=mean, projection=inverse, kind="pca", note=f"metric, shrinkage {shrinkage:g}")


def _check(vectors: Float[np.ndarray, "n d"], dim: int | None, shrinkage: float | None) -> None:
    if vectors.ndim != 2 or len(vectors) < 2:
        raise ValueError(
            f"whitening: expected at least 2 rows of descriptors, got shape {vectors.shape}; give more images"
        )
    if shrinkage is not None and not 0.0 <= shrinkage <= 1.0:
        raise ValueError(f"whitening: expected a shrinkage in [0, 1], got {shrinkage}; choose one of them")
    check_dim(dim, vectors.shape[1])
