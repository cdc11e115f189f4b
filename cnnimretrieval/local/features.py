"""LocalFeatures: the keypoints of one photo with scale, score and descriptor, checked once."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from groundwork.arrays import freeze_arrays
from groundwork.descriptor_folder import unit_rows

_LAYOUT = {
    "keypoints": (np.float32, ("n", 2)),
    "scales": (np.float32, ("n",)),
    "scores": (np.float32, ("n",)),
    "descriptors": (np.float32, ("n", "d")),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class LocalFeatures:
    """Local features of one photo, by falling score; none at all (n = 0) is valid.

    TypeError or ValueError unless shapes and types agree, all numbers are finite, scores fall and
    descriptors have length 1 (as far as 16-bit rounding tells).

    Attributes:
        keypoints: x, y in pixels of the full upright photo, pixel centres at .5; they may lie outside of it.
        scales: side in pixels of what the descriptor has seen, its receptive field.
        scores: how much the feature is worth attending to; comparable within one method only.
        descriptors: unit rows.

    """

    keypoints: Float32[np.ndarray, "n 2"]
    scales: Float32[np.ndarray, " n"]
    scores: Float32[np.ndarray, " n"]
    descriptors: Float32[np.ndarray, "n d"]

    def __post_init__(self) -> None:
        width = np.shape(self.descriptors)[1] if np.ndim(self.descriptors) == 2 else 0
        freeze_arrays(self, "local features", _LAYOUT, d=width)
        for name in _LAYOUT:
            found = getattr(self, name)
            if not np.isfinite(found).all():
                raise ValueError(
                    f"local features: expected finite numbers in '{name}', got infinity; "
                    "leave out what could not be computed"
                )
        rising = np.flatnonzero(np.diff(self.scores) > 0.0)
        if len(rising):
            first = int(rising[0])
            raise ValueError(
                f"local features: expected falling scores, got {self.scores[first]:g} before "
                f"{self.scores[first + 1]:g} in row {first}; sort the features by score"
            )
        wrong = np.flatnonzero(~unit_rows(self.descriptors))
        if len(wrong):
            length = float(np.linalg.norm(self.descriptors[wrong[0]]))
            raise ValueError(
                f"local features: expected descriptors of length 1, got {length:.4g} in row {wrong[0]}; "
                "normalise them"
            )

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def dim(self) -> int:
        """The length d of a descriptor, also where there is none."""
        return int(self.descriptors.shape[1])

    def best(self, count: int) -> "LocalFeatures":
        """The `count` features of highest score, or all where there are fewer."""
        return LocalFeatures(
            keypoints=self.keypoints[:count],
            scales=self.scales[:count],
            scores=self.scores[:count],
            descriptors=self.descriptors[:count],
        )


def no_features(dim: int) -> LocalFeatures:
    """The features of a photo that has none, descriptors of `dim` numbers."""
    return LocalFeatures(
        keypoints=np.empty((0, 2), np.float32),
        scales=np.empty(0, np.float32),
        scores=np.empty(0, np.float32),
        descriptors=np.empty((0, dim), np.float32),
    )


def by_score(
    keypoints: Float32[np.ndarray, "n 2"],
    scales: Float32[np.ndarray, " n"],
    scores: Float32[np.ndarray, " n"],
    descriptors: Float32[np.ndarray, "n d"],
) -> LocalFeatures:
    """Features in any order, sorted by falling score; of equal scores the earlier one stays first."""
    order = np.argsort(-scores, kind="stable")
    return LocalFeatures(
        keypoints=keypoints[order], scales=scales[order], scores=scores[order], descriptors=descriptors[order]
    )
