"""Plug-ins that find local features and match them: a photo in, keypoints and descriptors out.

`features.method` names one, and `second.method` another for what the first one cannot match: `sift`, which is
built in, the entry point of an installed package in the group `cnnimretrieval.local_features`, or
`path/to/file.py:Name`. It is a class that can be made without arguments and has the two methods of
`LocalFeature`; one that learned may take `weights`, a file, and say its `min_inliers`, of a verified pair.
What it finds goes to COLMAP, which verifies and maps as ever.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Float32, Shaped, UInt8, UInt32

from groundwork.plugins import PluginKind, load_plugin

METHODS = PluginKind(
    setting="features.method",
    group="cnnimretrieval.local_features",
    built_in={"sift": "sfm.local_features.sift:Sift"},
)

Gray = UInt8[np.ndarray, "h w"]
Found = tuple[Float32[np.ndarray, "n 4"], Shaped[np.ndarray, "n d"]]
Detector = Callable[[Gray], Found]


class LocalFeature(Protocol):
    """A kind of local feature."""

    def detector(self, *, max_features: int, first_octave: int) -> Detector:
        """Return a function from a gray picture to its keypoints and descriptors, the best ones first.

        Keypoints are x, y in px (the centre of the first pixel is at .5) and, where the method knows them,
        scale in px and orientation in radians: 2 to 4 columns. Descriptors have a row each, of bytes or
        floats; what counts of them is their direction. Made once a task: here a network may be loaded.
        `first_octave` may be ignored by what has no octaves.
        """

    def matches(
        self, first: Float32[np.ndarray, "n d"], second: Float32[np.ndarray, "m d"], max_ratio: float
    ) -> UInt32[np.ndarray, "k 2"]:
        """Rows (i, j) of descriptors, unit rows here, that may show the same point; each in one row at most.

        `sfm.correspondence.mutual_matches` is what serves most.
        """


def modules_of(*names: str) -> tuple[str, ...]:
    """The modules that tasks import for methods of these names; none for what a file holds."""
    return tuple(module for name in names if (module := load_plugin(name, METHODS).module))


class FeatureFault(Exception):
    """A finding: what a method gave for a photo or pair is of no use. The text is a reason to be counted."""


def load_method(name: str, weights: Path | None = None) -> LocalFeature:
    """The method of this name, with the weights of a file; ValueError for a name that stands for none."""
    plugin = load_plugin(name, METHODS)
    try:
        method: LocalFeature = plugin.call() if weights is None else plugin.call(weights=weights)
    except TypeError as error:
        raise ValueError(
            f"features.method: expected a class made of {'nothing' if weights is None else 'weights=FILE'}, "
            f"got '{name}', which raises TypeError: {error}; see sfm/local_features/interface.py"
        ) from error
    for part in ("detector", "matches"):
        if not callable(getattr(method, part, None)):
            raise ValueError(
                f"features.method: expected a class with detector and matches, got '{name}' without "
                f"'{part}'; see sfm/local_features/interface.py"
            )
    return method


def find(detect: Detector, gray: Gray) -> Found:
    """What `detect` finds in a picture, once it has proved sound; FeatureFault where it has not."""
    try:
        keypoints, descriptors = (np.asarray(part) for part in detect(gray))
    except Exception as error:
        raise FeatureFault(f"local features raised {type(error).__name__}") from error
    shapes = keypoints.ndim == descriptors.ndim == 2 and 2 <= keypoints.shape[1] <= 4
    if not shapes or len(keypoints) != len(descriptors):
        raise FeatureFault(f"local features of shapes {keypoints.shape} and {descriptors.shape}")
    if not all(part.dtype.kind in "fiu" and np.isfinite(part).all() for part in (keypoints, descriptors)):
        raise FeatureFault("local features that are not finite numbers")
    height, width = gray.shape
    if ((keypoints[:, :2] < 0) | (keypoints[:, :2] > (width, height))).any():
        raise FeatureFault("local features outside of the photo")
    # What a method does not know of scale and orientation nobody needs.
    unknown = np.tile(np.array([1.0, 0.0], np.float32)[keypoints.shape[1] - 2 :], (len(keypoints), 1))
    return np.column_stack([keypoints.astype(np.float32), unknown]), descriptors


def putative_matches(
    feature: LocalFeature,
    one: Float32[np.ndarray, "n d"],
    two: Float32[np.ndarray, "m d"],
    max_ratio: float,
) -> UInt32[np.ndarray, "k 2"]:
    """What `feature` matches, once it has proved sound; FeatureFault where it has not."""
    try:
        matches = np.asarray(feature.matches(one, two, max_ratio))
    except Exception as error:
        raise FeatureFault(f"matches raised {type(error).__name__}") from error
    if matches.ndim != 2 or matches.shape[1] != 2 or matches.dtype.kind not in "iu":
        raise FeatureFault(f"matches of {matches.dtype} and shape {matches.shape}")
    if (matches < 0).any() or (matches >= (len(one), len(two))).any():
        raise FeatureFault("matches of keypoints that are not there")
    if any(len(np.unique(column)) < len(column) for column in matches.T):
        raise FeatureFault("several matches of one keypoint")
    return matches.astype(np.uint32)
