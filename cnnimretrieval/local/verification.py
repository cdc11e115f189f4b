"""Matched points of two photos to the geometry between them: LO-RANSAC by OpenCV's USAC, seeded."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float
from pydantic import Field

from groundwork.settings import Settings

Geometry = Literal["similarity", "affine", "homography", "fundamental"]

# Matches that determine a geometry: these alone agree with it whatever they are.
MINIMAL: dict[Geometry, int] = {"similarity": 2, "affine": 3, "homography": 4, "fundamental": 7}
# A map that turns areas inside out, or magnifies or squeezes them more than this, is none between photos.
_MAX_MAGNIFICATION = 10.0
_REFITS = 3


class VerifyConfig(Settings):
    """How the geometry between two photos is estimated."""

    geometry: Geometry = Field(default="affine", description="what maps one photo to the other")
    max_error_px: float = Field(
        default=8.0, gt=0.0, description="distance of an inlier to where the geometry puts it, at most"
    )
    confidence: float = Field(default=0.999, gt=0.0, lt=1.0, description="at which sampling ends")
    max_trials: int = Field(default=1000, gt=0, description="samples drawn, at most")
    seed: int = Field(default=0, ge=0, description="of the samples")


@dataclass(frozen=True, kw_only=True, eq=False)
class Verified:
    """Which matches agree with one geometry; `matrix` (zeros: none was found) takes photo 1 to photo 2.

    x2 ~ M x1 for similarity, affine and homography, x2^T M x1 = 0 for fundamental; x = (x, y, 1) in px.
    """

    matrix: Float[np.ndarray, "3 3"]
    inliers: Bool[np.ndarray, " k"]

    @property
    def num_inliers(self) -> int:
        """How many matches agree; 0 where nothing was found."""
        return int(self.inliers.sum())


def verify(
    points1: Float[np.ndarray, "k 2"], points2: Float[np.ndarray, "k 2"], config: VerifyConfig
) -> Verified:
    """The geometry that most matches (row i of both) agree with, refined on those by least squares.

    No more matches than determine it prove nothing: none is an inlier then. The same seed gives the same
    result. ValueError for points that are not finite, ImportError without OpenCV.
    """
    points1, points2 = np.asarray(points1, np.float64), np.asarray(points2, np.float64)
    if not (np.isfinite(points1).all() and np.isfinite(points2).all()):
        raise ValueError(
            "verification: expected finite positions, got NaN or infinity; extract the local features again"
        )
    nothing = Verified(matrix=np.zeros((3, 3)), inliers=np.zeros(len(points1), bool))
    if len(points1) <= MINIMAL[config.geometry]:
        return nothing
    matrix, inliers = _ESTIMATORS[config.geometry](points1, points2, config)
    if inliers.sum() <= MINIMAL[config.geometry] or not np.isfinite(matrix).all():
        return nothing
    if config.geometry != "fundamental" and not _believable(matrix, points1[inliers].mean(axis=0)):
        return nothing
    return Verified(matrix=matrix, inliers=inliers)


_Estimate = tuple[Float[np.ndarray, "3 3"], Bool[np.ndarray, " k"]]
_Estimator = Callable[[Float[np.ndarray, "k 2"], Float[np.ndarray, "k 2"], VerifyConfig], _Estimate]


def opencv() -> Any:
    """OpenCV's module; ImportError that says how to get it, or how to get one that loads."""
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise ImportError(
            "verification: expected the package opencv-python-headless, got none; "
            "pip install 'cnnimretrieval[spatial]'"
        ) from error
    except ImportError as error:
        # As packages that depend on opencv-python leave it where there are no libraries for windows.
        raise ImportError(
            f"verification: expected OpenCV to load, got '{error}'; pip uninstall opencv-python, then "
            "pip install --force-reinstall opencv-python-headless"
        ) from error
    return cv2


def _usac(config: VerifyConfig) -> Any:
    cv2 = opencv()
    params = cv2.UsacParams()
    params.threshold = config.max_error_px
    params.confidence = config.confidence
    params.maxIterations = config.max_trials
    params.randomGeneratorState = config.seed
    params.sampler = cv2.SAMPLING_UNIFORM
    params.score = cv2.SCORE_METHOD_MSAC
    params.loMethod = cv2.LOCAL_OPTIM_INNER_LO
    params.final_polisher = cv2.LSQ_POLISHER
    params.final_polisher_iterations = _REFITS
    return params


def _affine(points1: np.ndarray, points2: np.ndarray, config: VerifyConfig) -> _Estimate:
    matrix, inliers = opencv().estimateAffine2D(points1, points2, _usac(config))
    return _square(matrix), _mask(inliers, len(points1))


def _homography(points1: np.ndarray, points2: np.ndarray, config: VerifyConfig) -> _Estimate:
    matrix, inliers = opencv().findHomography(points1, points2, _usac(config))
    return _square(matrix), _mask(inliers, len(points1))


def _fundamental(points1: np.ndarray, points2: np.ndarray, config: VerifyConfig) -> _Estimate:
    matrix, inliers = opencv().findFundamentalMat(points1, points2, _usac(config))
    return _square(matrix), _mask(inliers, len(points1))


def _similarity(points1: np.ndarray, points2: np.ndarray, config: VerifyConfig) -> _Estimate:
    """OpenCV has no USAC for it: its RANSAC, with the seed in the order of the points, then refits."""
    cv2 = opencv()
    order = np.random.default_rng(config.seed).permutation(len(points1))
    found, _ = cv2.estimateAffinePartial2D(
        points1[order],
        points2[order],
        method=cv2.RANSAC,
        ransacReprojThreshold=config.max_error_px,
        maxIters=config.max_trials,
        confidence=config.confidence,
    )
    matrix = _square(found)
    inliers = _within(matrix, points1, points2, config.max_error_px)
    for _ in range(_REFITS):
        if inliers.sum() <= MINIMAL["similarity"]:
            break
        refitted = _fit_similarity(points1[inliers], points2[inliers])
        agreeing = _within(refitted, points1, points2, config.max_error_px)
        if agreeing.sum() < inliers.sum():
            break
        matrix, inliers = refitted, agreeing
    return matrix, inliers


_ESTIMATORS: dict[Geometry, _Estimator] = {
    "similarity": _similarity,
    "affine": _affine,
    "homography": _homography,
    "fundamental": _fundamental,
}


def _fit_similarity(
    points1: Float[np.ndarray, "k 2"], points2: Float[np.ndarray, "k 2"]
) -> Float[np.ndarray, "3 3"]:
    """The turn, scale and shift of least squares: z2 = a z1 + b in complex numbers."""
    z1, z2 = points1 @ (1, 1j), points2 @ (1, 1j)
    centred = z1 - z1.mean()
    a = np.vdot(centred, z2) / max(float(np.vdot(centred, centred).real), 1e-12)
    b = z2.mean() - a * z1.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag], [0.0, 0.0, 1.0]])


def _within(
    matrix: Float[np.ndarray, "3 3"], points1: np.ndarray, points2: np.ndarray, max_error_px: float
) -> Bool[np.ndarray, " k"]:
    mapped = points1 @ matrix[:2, :2].T + matrix[:2, 2]
    near: Bool[np.ndarray, " k"] = np.linalg.norm(mapped - points2, axis=1) <= max_error_px
    return near & bool(matrix.any())


def _believable(matrix: Float[np.ndarray, "3 3"], at: Float[np.ndarray, " 2"]) -> bool:
    """Whether the map neither mirrors nor collapses what lies about a point."""
    x, y, w = matrix @ (*at, 1.0)
    if abs(w) < 1e-12:
        return False
    # Of (x / w, y / w) by the position.
    jacobian = (matrix[:2, :2] - np.outer((x / w, y / w), matrix[2, :2])) / w
    if np.linalg.det(jacobian) <= 0.0:
        return False
    stretch = np.linalg.svd(jacobian, compute_uv=False)
    return bool(stretch[0] < _MAX_MAGNIFICATION and stretch[1] > 1.0 / _MAX_MAGNIFICATION)


def _square(matrix: np.ndarray | None) -> Float[np.ndarray, "3 3"]:
    if matrix is None or matrix.size < 6:
        return np.zeros((3, 3))
    return np.vstack([matrix, (0.0, 0.0, 1.0)]) if matrix.shape == (2, 3) else np.array(matrix[:3])


def _mask(inliers: np.ndarray | None, count: int) -> Bool[np.ndarray, " k"]:
    return np.zeros(count, bool) if inliers is None else np.asarray(inliers).ravel().astype(bool)
