"""Roots and axes of covariance matrices, and which of their directions are rounding."""

import numpy as np
import scipy.linalg
from jaxtyping import Float

# Beyond this condition the weakest direction would be amplified 10,000 times as much as the strongest.
_WORST_CONDITION = 1e8
# What share of the largest eigenvalue single precision rounds by; from which side on a decomposition in it is
# worth the time that it saves: it may turn axes of nearly the same eigenvalue into each other.
_SINGLE = 1e-7
_LARGE = 1024


def towards(
    covariance: Float[np.ndarray, "d d"], target: Float[np.ndarray, "d d"], share: float
) -> Float[np.ndarray, "d d"]:
    """(1 - share) covariance + share target, the target scaled to the same trace."""
    if share == 0.0:
        return covariance
    scaled = target * (np.trace(covariance) / np.trace(target))
    mixed: np.ndarray = (1.0 - share) * covariance + share * scaled
    return mixed


def root(covariance: Float[np.ndarray, "d d"], worst: float) -> Float[np.ndarray, "d d"] | None:
    """L with L L^T = covariance, lower; None when its condition (in the 1-norm) is above `worst`.

    A covariance with a null space has one that rounding makes finite, so Cholesky alone does not tell.
    """
    try:
        lower: np.ndarray = scipy.linalg.cholesky(covariance, lower=True, check_finite=False)
    except scipy.linalg.LinAlgError:
        return None
    largest_column = np.abs(covariance).sum(axis=0).max()
    # The estimate of LAPACK, at the cost of a few triangular solves.
    inverse_condition, _ = scipy.linalg.lapack.dpocon(lower.T, largest_column)
    return lower if inverse_condition * worst > 1.0 else None


def transformed(
    symmetric: Float[np.ndarray, "d d"], lower: Float[np.ndarray, "d d"]
) -> Float[np.ndarray, "d d"]:
    """The lower triangle of L^-1 A L^-T."""
    found, _ = scipy.linalg.lapack.dsygst(symmetric, lower, lower=1)
    triangle: np.ndarray = found
    return triangle


def worst_condition(rounding: float) -> float:
    """The worst condition of a covariance that is told from one with a null space."""
    return min(10.0 / rounding, _WORST_CONDITION)


def falling_eigh(
    symmetric: Float[np.ndarray, "d d"], rounding: float
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d d"]]:
    """Eigenvalues by falling value and the eigenvectors in the columns, their signs fixed.

    Only the lower triangle is read. A large matrix that is known to single precision is decomposed in single
    precision.
    """
    known_to_single = rounding >= _SINGLE and len(symmetric) >= _LARGE
    given = symmetric.astype(np.float32) if known_to_single else symmetric
    # Divide and conquer is the fastest for all eigenvectors.
    eigenvalues, axes = scipy.linalg.eigh(given, driver="evd", check_finite=False)
    eigenvalues, axes = eigenvalues[::-1].astype(np.float64), axes[:, ::-1]
    # Eigenvectors have no sign of their own: the largest entry positive makes results comparable between
    # machines.
    largest = axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])]
    axes *= np.where(largest < 0.0, -1.0, 1.0).astype(axes.dtype)
    return eigenvalues, axes


def num_axes(eigenvalues: Float[np.ndarray, " d"], dim: int | None, rounding: float) -> int:
    """How many axes to keep: scaling rounding to unit variance would fill the descriptor with noise."""
    rank = int((eigenvalues > rounding * eigenvalues[0]).sum())
    return rank if dim is None else min(dim, rank)
