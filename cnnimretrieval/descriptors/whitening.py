"""Whitening of descriptors: centring, projection and L2 norm, learned from matching pairs or by PCA.

Statistics are float64, gathered block by block, so the descriptors themselves may be a memory map and stay
float32.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from sfm.store import atomic_path

Kind = Literal["learned", "pca"]

_BLOCK_ROWS = 4096
_EPS = 1e-6
# Directions with less than this share of the largest variance are rounding, not data: unit rows in float32
# carry rounding of about 1e-12 of it. Scaling them to unit variance would fill the descriptor with noise.
_RANK_TOLERANCE = 1e-10
# A pair covariance worse conditioned than this has a null space, whatever Cholesky says.
_WORST_CONDITION = 1e12


@dataclass(frozen=True, kw_only=True, eq=False)
class Whitening:
    """x -> projection (x - mean), then L2; `note` says in one line what it was estimated from."""

    mean: Float[np.ndarray, " d"]
    projection: Float[np.ndarray, "k d"]
    kind: Kind
    note: str

    def __post_init__(self) -> None:
        if self.projection.ndim != 2 or self.projection.shape[1:] != self.mean.shape:
            raise ValueError(
                f"whitening: expected a projection (k, {self.mean.size}), got {self.projection.shape}; "
                "give mean and projection of the same estimate"
            )
        if not (np.isfinite(self.mean).all() and np.isfinite(self.projection).all()):
            raise ValueError("whitening: expected finite numbers, got NaN or infinity; estimate it again")

    @property
    def dim(self) -> int:
        """Length of a whitened descriptor."""
        return len(self.projection)

    def fingerprint(self) -> str:
        """SHA-256 (hex) of mean and projection."""
        return hashlib.sha256(self.mean.tobytes() + self.projection.tobytes()).hexdigest()


def learn_whitening(
    vectors: Float[np.ndarray, "n d"],
    queries: Int[np.ndarray, " m"],
    positives: Int[np.ndarray, " m"],
    *,
    query_vectors: Float[np.ndarray, "q d"] | None = None,
    dim: int | None = None,
    shrinkage: float = 0.0,
    collection_share: float = 0.0,
) -> Whitening:
    """Whitening that makes differences of matching pairs white, its axes by falling scatter of the images.

    With m the mean of the query rows, S = mean (x_q - x_p)(x_q - x_p)^T = L L^T and C = sum (x - m)(x -
    m)^T over all rows: P = V^T L^-1, where V holds the eigenvectors of L^-1 C L^-T by falling eigenvalue.
    Mikolajczyk and Matas, ICCV 2007; Radenovic et al., TPAMI 2019 (which writes S^-1/2; any root gives the
    same up to a rotation, which the eigenvectors undo).

    `positives` are rows of `vectors`, the collection; `queries` are rows of `query_vectors`, which may be
    other views of the queries than the collection's, and are rows of `vectors` when it is not given.

    Two shares, not in the paper, make few pairs usable. With fewer pairs than dimensions S has a null space,
    which plain inversion would blow up, and pairs of a few places say little about the rest of the world:

        S' = (1 - shrinkage) [(1 - collection_share) S + collection_share s C / trace(C)] + shrinkage s I/d

    with s = trace(S), so that S' keeps the size of S. `collection_share` = 1 is PCA whitening with the same
    shrinkage, about the queries' mean.

    `dim` keeps the first axes. Axes in which the images do not vary are left out, so the result may have
    fewer; `note` says how many. ValueError when S' cannot be inverted.
    """
    _check(vectors, dim, shrinkage)
    if not 0.0 <= collection_share <= 1.0:
        raise ValueError(
            f"whitening: expected a collection_share in [0, 1], got {collection_share}; choose one of them"
        )
    if len(queries) != len(positives) or not len(queries):
        raise ValueError(
            f"learned whitening: expected as many queries as positives and at least one, got {len(queries)} "
            f"and {len(positives)}; give one positive for each query"
        )
    if query_vectors is None:
        query_vectors = vectors
    d = vectors.shape[1]
    mean = _mean(query_vectors, queries)
    scatter = _scatter(vectors, mean)
    covariance = _pair_covariance(query_vectors, queries, vectors, positives)
    covariance = _towards(covariance, scatter, collection_share)
    covariance = _towards(covariance, np.eye(d), shrinkage)
    lower = _cholesky(covariance, pairs=len(queries), shrinkage=shrinkage)
    half = scipy.linalg.solve_triangular(lower, scatter, lower=True)
    whitened_scatter = scipy.linalg.solve_triangular(lower, half.T, lower=True)
    eigenvalues, axes = _falling_eigh(whitened_scatter)
    kept = _num_axes(eigenvalues, dim)
    projection = scipy.linalg.solve_triangular(lower, axes[:, :kept], lower=True, trans="T").T
    note = (
        f"learned from {len(queries)} pairs and {len(vectors)} descriptors, {kept} of {d} dimensions, "
        f"shrinkage {shrinkage:g}, collection_share {collection_share:g}"
    )
    return Whitening(mean=mean, projection=np.ascontiguousarray(projection), kind="learned", note=note)


def pca_whitening(
    vectors: Float[np.ndarray, "n d"], *, dim: int | None = None, shrinkage: float = 0.0
) -> Whitening:
    """PCA whitening: P = Lambda^-1/2 V^T of the covariance (over n, not n - 1) of the centred rows.

    Jegou and Chum, ECCV 2012. `shrinkage` in [0, 1] moves every eigenvalue towards their mean, which bounds
    how much weak directions are amplified. Directions without variance are left out, so the result may have
    fewer than `dim` rows (at most n - 1); `note` says how many. ValueError when the rows are all equal.
    """
    _check(vectors, dim, shrinkage)
    n, d = vectors.shape
    mean = _mean(vectors, np.arange(n))
    eigenvalues, axes = _falling_eigh(_scatter(vectors, mean) / n)
    if eigenvalues[0] <= _RANK_TOLERANCE * float(mean @ mean):
        raise ValueError(
            f"PCA whitening: expected rows that differ, got {n} equal ones; give more descriptors"
        )
    kept = _num_axes(eigenvalues, dim)
    shrunk = (1.0 - shrinkage) * eigenvalues + shrinkage * eigenvalues.clip(min=0.0).mean()
    projection = (axes[:, :kept] / np.sqrt(shrunk[:kept])).T
    note = f"PCA of {n} descriptors, {kept} of {d} dimensions, shrinkage {shrinkage:g}"
    return Whitening(mean=mean, projection=np.ascontiguousarray(projection), kind="pca", note=note)


def apply(
    whitening: Whitening,
    vectors: Float[np.ndarray, "n d"],
    dim: int | None = None,
    out: Float[np.ndarray, "n k"] | None = None,
) -> Float[np.ndarray, "n k"]:
    """Whitened unit rows y / (||y|| + 1e-6), y = P[:dim] (x - m), in the dtype of `vectors`.

    `out` takes the result when given, a memory map for instance; memory stays bounded by a block of rows.
    """
    if vectors.ndim != 2 or vectors.shape[1] != len(whitening.mean):
        raise ValueError(
            f"whitening: expected descriptors (n, {len(whitening.mean)}), got {vectors.shape}; "
            "use the whitening that was learned with this network"
        )
    _check_dim(dim, whitening.dim)
    mean = whitening.mean.astype(vectors.dtype)
    projection_t = whitening.projection[:dim].astype(vectors.dtype).T
    if out is None:
        out = np.empty((len(vectors), projection_t.shape[1]), vectors.dtype)
    for rows in _blocks(len(vectors)):
        projected = (vectors[rows] - mean) @ projection_t
        out[rows] = projected / (np.linalg.norm(projected, axis=1, keepdims=True) + _EPS)
    return out


def save_whitening(whitening: Whitening, path: Path) -> None:
    """Write `whitening` as one safetensors file, whole or not at all."""
    with atomic_path(path) as unfinished:
        arrays = {"mean": whitening.mean, "projection": whitening.projection}
        save_file(arrays, unfinished, metadata={"kind": whitening.kind, "note": whitening.note})


def load_whitening(path: Path) -> Whitening:
    """The whitening in a file of `save_whitening`; FileNotFoundError or ValueError when it holds none."""
    if not path.is_file():
        raise FileNotFoundError(f"whitening: expected a file, got {path}, which is none; check the path")
    try:
        with safe_open(path, framework="numpy") as file:
            facts = file.metadata() or {}
            mean, projection = file.get_tensor("mean"), file.get_tensor("projection")
    except SafetensorError as error:
        raise ValueError(
            f"whitening {path}: expected mean and projection, got {error}; learn it again"
        ) from error
    kind: Kind = "learned" if facts.get("kind") == "learned" else "pca"
    return Whitening(mean=mean, projection=projection, kind=kind, note=facts.get("note", ""))


def _check(vectors: Float[np.ndarray, "n d"], dim: int | None, shrinkage: float) -> None:
    if vectors.ndim != 2 or len(vectors) < 2:
        raise ValueError(
            f"whitening: expected at least 2 rows of descriptors, got shape {vectors.shape}; give more images"
        )
    if not 0.0 <= shrinkage <= 1.0:
        raise ValueError(f"whitening: expected a shrinkage in [0, 1], got {shrinkage}; choose one of them")
    _check_dim(dim, vectors.shape[1])


def _check_dim(dim: int | None, most: int) -> None:
    if dim is not None and not 1 <= dim <= most:
        raise ValueError(f"whitening: expected 1 to {most} dimensions, got {dim}; choose one of them")


def _blocks(n: int) -> Iterator[slice]:
    return (slice(start, min(start + _BLOCK_ROWS, n)) for start in range(0, n, _BLOCK_ROWS))


def _mean(vectors: Float[np.ndarray, "n d"], rows: Int[np.ndarray, " m"]) -> Float[np.ndarray, " d"]:
    total = np.zeros(vectors.shape[1])
    for block in _blocks(len(rows)):
        total += vectors[rows[block]].sum(axis=0, dtype=np.float64)
    if not np.isfinite(total).all():
        raise ValueError(
            "whitening: expected finite descriptors, got NaN or infinity; describe the images again"
        )
    return total / len(rows)


def _scatter(vectors: Float[np.ndarray, "n d"], mean: Float[np.ndarray, " d"]) -> Float[np.ndarray, "d d"]:
    total = np.zeros((len(mean), len(mean)))
    for block in _blocks(len(vectors)):
        centred = vectors[block] - mean
        total += centred.T @ centred
    return total


def _pair_covariance(
    query_vectors: Float[np.ndarray, "q d"],
    queries: Int[np.ndarray, " m"],
    vectors: Float[np.ndarray, "n d"],
    positives: Int[np.ndarray, " m"],
) -> Float[np.ndarray, "d d"]:
    total = np.zeros((vectors.shape[1], vectors.shape[1]))
    for block in _blocks(len(queries)):
        difference = query_vectors[queries[block]].astype(np.float64) - vectors[positives[block]]
        total += difference.T @ difference
    return total / len(queries)


def _towards(
    covariance: Float[np.ndarray, "d d"], target: Float[np.ndarray, "d d"], share: float
) -> Float[np.ndarray, "d d"]:
    """(1 - share) covariance + share target, the target scaled to the same trace."""
    if share == 0.0:
        return covariance
    scaled = target * (np.trace(covariance) / np.trace(target))
    mixed: np.ndarray = (1.0 - share) * covariance + share * scaled
    return mixed


def _cholesky(
    covariance: Float[np.ndarray, "d d"], *, pairs: int, shrinkage: float
) -> Float[np.ndarray, "d d"]:
    d = len(covariance)
    eigenvalues = scipy.linalg.eigvalsh(covariance)
    if eigenvalues[0] * _WORST_CONDITION > eigenvalues[-1]:
        lower: np.ndarray = scipy.linalg.cholesky(covariance, lower=True)
        return lower
    if eigenvalues[-1] <= 0.0:
        raise ValueError(
            f"learned whitening: expected pairs of different descriptors, got {pairs} pairs of equal ones; "
            "mine other pairs"
        )
    if pairs < d:
        raise ValueError(
            f"learned whitening: expected at least {d} matching pairs for {d}-D descriptors, got {pairs}; "
            "mine more pairs, reduce the descriptor first, or set whitening.shrinkage"
        )
    raise ValueError(
        f"learned whitening: expected pair differences in all {d} dimensions, got a covariance "
        f"of condition above {_WORST_CONDITION:.0e} at shrinkage {shrinkage:g}; "
        "mine more varied pairs or set whitening.shrinkage"
    )


def _falling_eigh(
    symmetric: Float[np.ndarray, "d d"],
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d d"]]:
    """Eigenvalues by falling value and the eigenvectors in the columns, their signs fixed."""
    eigenvalues, axes = scipy.linalg.eigh(symmetric)
    eigenvalues, axes = eigenvalues[::-1], axes[:, ::-1]
    # Eigenvectors have no sign of their own: the largest entry positive makes results comparable between
    # machines.
    largest = axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])]
    return eigenvalues, axes * np.where(largest < 0.0, -1.0, 1.0)


def _num_axes(eigenvalues: Float[np.ndarray, " d"], dim: int | None) -> int:
    rank = int((eigenvalues > _RANK_TOLERANCE * eigenvalues[0]).sum())
    return rank if dim is None else min(dim, rank)
