"""SIFT by COLMAP, the local feature that is built in (D. Lowe, IJCV 2004; its bytes are RootSIFT's)."""

import numpy as np
from jaxtyping import Float32, UInt32

from sfm.correspondence import mutual_matches
from sfm.local_features.interface import Detector, Found, Gray


class Sift:
    """Keypoints by falling scale; mutual nearest neighbours that stand out."""

    def detector(self, *, max_features: int, first_octave: int) -> Detector:
        """As `LocalFeature`; in a child process only."""
        # pycolmap is heavy, and ends the process when it fails.
        from sfm.colmap import calls as colmap

        sift = colmap.sift(max_features=max_features, first_octave=first_octave)

        def detect(gray: Gray) -> Found:
            keypoints, descriptors = sift(gray)
            order = np.argsort(-keypoints[:, 2], kind="stable")
            return keypoints[order], descriptors[order]

        return detect

    def matches(
        self, first: Float32[np.ndarray, "n d"], second: Float32[np.ndarray, "m d"], max_ratio: float
    ) -> UInt32[np.ndarray, "k 2"]:
        """As `LocalFeature`."""
        return mutual_matches(first, second, max_ratio)
