"""First and second moments of many descriptors, gathered block by block, and how far to trust them.

The descriptors may be a memory map. Of many float32 rows the products are taken in float32, block by block,
and summed in float64: that halves the time and is as exact as the rows are. Few rows, of which a covariance
may have a null space, and float64 rows are multiplied in float64.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int

from groundwork.arrays import slices

BLOCK_ROWS = 4096
# Fewer rows than this many times their dimension are few.
_FEW = 4
# Shares of the largest eigenvalue below which one is rounding: unit rows in float32 carry rounding of about
# 1e-12 of it, products in float32 of about 1e-8.
_ROUNDING = {np.dtype(np.float64): 1e-10, np.dtype(np.float32): 1e-6}


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """The mean of x x^T over `count` vectors x, and of ||x||^4.

    Eigenvalues below `rounding` times the largest tell nothing.
    """

    second: Float[np.ndarray, "d d"]
    fourth: float
    count: int
    rounding: float


def mean_of(vectors: Float[np.ndarray, "n d"], rows: Int[np.ndarray, " m"]) -> Float[np.ndarray, " d"]:
    """The mean of some rows, one counted as often as it is named; ValueError when it is not finite."""
    total = np.zeros(vectors.shape[1])
    for block in slices(len(rows), BLOCK_ROWS):
        total += vectors[rows[block]].sum(axis=0, dtype=np.float64)
    if not np.isfinite(total).all():
        raise ValueError(
            "whitening: expected finite descriptors, got NaN or infinity; describe the images again"
        )
    return total / len(rows)


def centred_moments(vectors: Float[np.ndarray, "n d"], mean: Float[np.ndarray, " d"]) -> Moments:
    """The moments of x - mean over all rows."""
    dtype = _precision(vectors, len(vectors))
    buffer, centre = _buffer(len(vectors), vectors.shape[1], dtype), mean.astype(dtype)
    return _moments(
        (
            np.subtract(vectors[rows], centre, out=buffer[: rows.stop - rows.start])
            for rows in slices(len(vectors), BLOCK_ROWS)
        ),
        len(vectors),
        buffer,
    )


def pair_moments(
    query_vectors: Float[np.ndarray, "q d"],
    queries: Int[np.ndarray, " m"],
    vectors: Float[np.ndarray, "n d"],
    positives: Int[np.ndarray, " m"],
) -> Moments:
    """The moments of the differences of matching pairs; `count` has a pair once however often it is named."""
    m, d = len(queries), vectors.shape[1]
    dtype = max(_precision(query_vectors, m), _precision(vectors, m))
    buffer = _buffer(m, d, dtype)
    from_query, from_collection = _buffer(m, d, query_vectors.dtype), _buffer(m, d, vectors.dtype)

    def differences() -> Iterator[Float[np.ndarray, "k d"]]:
        for rows in slices(m, BLOCK_ROWS):
            size = rows.stop - rows.start
            # "clip" writes into the buffer at once; every row is there, which has been checked.
            np.take(query_vectors, queries[rows], axis=0, out=from_query[:size], mode="clip")
            np.take(vectors, positives[rows], axis=0, out=from_collection[:size], mode="clip")
            yield np.subtract(from_query[:size], from_collection[:size], out=buffer[:size])

    distinct = len(np.unique(np.stack([queries, positives]), axis=1).T)
    return _moments(differences(), distinct, buffer)


def shrinkage_of(moments: Moments) -> float:
    """The share of s I / d that brings the second moment nearest to the true one, s being its trace.

    The estimate of Ledoit and Wolf (Journal of Multivariate Analysis, 2004) for vectors of known mean zero:
    the variance of the second moment's entries, over its squared distance from s I / d.
    """
    d = len(moments.second)
    squared_norm = float(np.square(moments.second).sum())
    spread = squared_norm - float(np.trace(moments.second)) ** 2 / d
    if spread <= 0.0:
        return 1.0
    return min(max(moments.fourth - squared_norm, 0.0) / moments.count / spread, 1.0)


def _moments(
    parts: Iterator[Float[np.ndarray, "k d"]], count: int, buffer: Float[np.ndarray, "r d"]
) -> Moments:
    d = buffer.shape[1]
    upper, fourth, seen = np.zeros((d, d), order="F"), 0.0, 0
    # The upper half of the products is half of the work.
    (product,) = scipy.linalg.get_blas_funcs(("syrk",), (buffer,))
    for part in parts:
        upper += product(1.0, part.T)
        fourth += float(np.square(np.einsum("nd,nd->n", part, part), dtype=np.float64).sum())
        seen += len(part)
    upper /= seen
    total = np.triu(upper) + np.triu(upper, 1).T
    return Moments(second=total, fourth=fourth / seen, count=count, rounding=_ROUNDING[buffer.dtype])


def _precision(vectors: Float[np.ndarray, "n d"], n: int) -> np.dtype[np.floating]:
    few = n < _FEW * vectors.shape[1]
    return np.dtype(np.float64 if few or vectors.dtype != np.float32 else np.float32)


def _buffer(n: int, d: int, dtype: np.dtype[Any]) -> Float[np.ndarray, "r d"]:
    return np.empty((min(n, BLOCK_ROWS), d), dtype)
