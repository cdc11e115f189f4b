"""Two photos' local features to what they prove together: matches, a geometry, inliers."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32
from pydantic import Field

from cnnimretrieval.local.features import LocalFeatures
from cnnimretrieval.local.matching import MatchConfig, Matches, match
from cnnimretrieval.local.verification import Geometry, Verified, VerifyConfig, verify
from groundwork.settings import Settings

# Tolerances are given for photos of this longer side.
_LONGEST_PX = 1024.0
# What suits features on the grid of a network's map: met to 8 px at best, and much like their neighbours.
ON_A_GRID: Mapping[str, float] = {"max_error_px": 20.0, "max_ratio": 0.95}


class PairConfig(Settings):
    """How two photos are matched and what of it is believed; `ON_A_GRID` says what suits a local head."""

    max_features: int = Field(default=1000, ge=1, description="of each photo, the best ones")
    mutual: bool = Field(default=True, description="match those only that are each other's nearest")
    max_ratio: float = Field(
        default=0.9, gt=0.0, le=1.0, description="distance to the nearest by that to the next; 1: any"
    )
    max_distance: float = Field(default=1.0, gt=0.0, le=2.0, description="of unit descriptors; 2: any")
    geometry: Geometry = Field(default="affine", description="similarity, affine, homography or fundamental")
    max_error_px: float = Field(
        default=8.0, gt=0.0, description="of an inlier, in px of a photo 1,024 px long"
    )
    max_trials: int = Field(default=1000, gt=0, description="samples drawn for a pair, at most")
    seed: int = Field(default=0, ge=0, description="of the samples")

    def matching(self) -> MatchConfig:
        """What concerns the descriptors."""
        return MatchConfig(mutual=self.mutual, max_ratio=self.max_ratio, max_distance=self.max_distance)

    def verification(self, longest_px: float) -> VerifyConfig:
        """What concerns the positions, in a second photo of this longer side."""
        return VerifyConfig(
            geometry=self.geometry,
            max_error_px=self.max_error_px * longest_px / _LONGEST_PX,
            max_trials=self.max_trials,
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Paired:
    """The matches of two photos, in rows of their features, and the geometry that verifies them."""

    matches: Matches
    verified: Verified

    @property
    def num_inliers(self) -> int:
        """How many matches one geometry explains."""
        return self.verified.num_inliers


def pair(first: LocalFeatures, second: LocalFeatures, config: PairConfig) -> Paired:
    """What the best features of two photos prove together; of too few of them, nothing.

    An inlier may be off by `max_error_px` in a second photo whose keypoints reach over 1,024 px, and by as
    much more in a larger one: photos are kept in any size, and found things are about as exact in each.
    """
    best = slice(config.max_features)
    matches = match(first.descriptors[best], second.descriptors[best], config.matching())
    verified = verify(
        first.keypoints[matches.rows[:, 0]],
        second.keypoints[matches.rows[:, 1]],
        config.verification(_reach(second.keypoints[best])),
    )
    return Paired(matches=matches, verified=verified)


def _reach(keypoints: Float32[np.ndarray, "n 2"]) -> float:
    """The longer side of what the keypoints span; at least a pixel."""
    return max(1.0, float(np.ptp(keypoints, axis=0).max())) if len(keypoints) else 1.0
