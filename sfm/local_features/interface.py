"""Plug-ins that find local features and match them: a photo in, keypoints and descriptors out.

`features.method` names one, and `second.method` another for what the first one cannot match: `sift`, which is
built in, the entry point of an installed package in the group `cnnimretrieval.local_features`, or
`path/to/file.py:Name`. It is a class that can be made without arguments and is a `LocalFeature`: it finds
features, and matches descriptors (`MatchesDescriptors`) or a pair of photos as a whole (`MatchesPairs`). One
that learned may take `weights`, a file, and say its `min_inliers`, of a verified pair; one that takes much
memory says `pixel_bytes`, for a pixel that it searches, and `product_bytes`, for a keypoint of one photo with
one of the other. What it finds goes to COLMAP, which verifies and maps as ever.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import Float32, Shaped, UInt8, UInt32

from groundwork.batches import CHILD_BYTES
from groundwork.plugins import PluginKind, load_plugin

METHODS = PluginKind(
    setting="features.method",
    group="cnnimretrieval.local_features",
    built_in={"sift": "sfm.local_features.sift:Sift"},
)

Gray = UInt8[np.ndarray, "h w"]
Found = tuple[Float32[np.ndarray, "n 4"], Shaped[np.ndarray, "n d"]]
Detector = Callable[[Gray], Found]
Rows = UInt32[np.ndarray, "k 2"]

# A child with a library for networks loaded besides ours.
_LEARNED_BYTES = 500_000_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Described:
    """What was found in one photo of a pair.

    Attributes:
        keypoints: x, y (px of the stored photo), scale, orientation; the best first.
        descriptors: a unit row each.
        size: width and height of the stored photo in px.

    """

    keypoints: Float32[np.ndarray, "n 4"]
    descriptors: Float32[np.ndarray, "n d"]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.keypoints)

    def best(self, count: int) -> "Described":
        """The first `count` of them alone."""
        return Described(
            keypoints=self.keypoints[:count], descriptors=self.descriptors[:count], size=self.size
        )


PairMatcher = Callable[[Described, Described], Rows]


class LocalFeature(Protocol):
    """A kind of local feature; it is a `MatchesDescriptors` or a `MatchesPairs`, too."""

    def detector(self, *, max_features: int, first_octave: int) -> Detector:
        """Return a function from a gray picture to its keypoints and descriptors, the best ones first.

        Keypoints are x, y in px (the centre of the first pixel is at .5) and, where the method knows them,
        scale in px and orientation in radians: 2 to 4 columns. Descriptors have a row each, of bytes or
        floats; what counts of them is their direction. Made once a task: here a network may be loaded.
        `first_octave` may be ignored by what has no octaves.
        """


@runtime_checkable
class MatchesDescriptors(Protocol):
    """A kind of local feature whose descriptors say which of two photos belong together."""

    def matches(
        self, first: Float32[np.ndarray, "n d"], second: Float32[np.ndarray, "m d"], max_ratio: float
    ) -> Rows:
        """Rows (i, j) of descriptors, unit rows here, that may show the same point; each in one row at most.

        `sfm.correspondence.mutual_matches` is what serves most.
        """


@runtime_checkable
class MatchesPairs(Protocol):
    """A kind of local feature with a matcher that looks at both photos of a pair at once."""

    def pair_matcher(self) -> PairMatcher:
        """Return a function from what was found in two photos to rows (i, j), each in one row at most.

        It is asked in the place of `matches`. Made once a task: here a network may be loaded.
        """


def modules_of(*names: str) -> tuple[str, ...]:
    """The modules that tasks import for methods of these names; none for what a file holds."""
    return tuple(module for name in names if (module := load_plugin(name, METHODS).module))


def process_bytes(name: str) -> int:
    """What a task takes in which a method of this name is made, whatever it works on."""
    return CHILD_BYTES if name in METHODS.built_in else _LEARNED_BYTES


def stated_bytes(name: str, what: str, usual: int) -> int:
    """`pixel_bytes` or `product_bytes` of the method of this name; `usual` where it does not say."""
    return int(getattr(load_plugin(name, METHODS).call, what, usual))


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
    lacking = [] if callable(getattr(method, "detector", None)) else ["detector"]
    if not isinstance(method, MatchesDescriptors | MatchesPairs):
        lacking.append("matches")
    if lacking:
        raise ValueError(
            f"features.method: expected a class with detector and matches (or pair_matcher), got '{name}' "
            f"without '{lacking[0]}'; see sfm/local_features/interface.py"
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


def matcher_of(feature: LocalFeature, max_ratio: float) -> PairMatcher:
    """What matches a pair of photos: the method's own matcher of pairs, or its matches of descriptors."""
    if isinstance(feature, MatchesPairs):
        return feature.pair_matcher()
    by_descriptors = cast(MatchesDescriptors, feature)
    return lambda one, two: by_descriptors.matches(one.descriptors, two.descriptors, max_ratio)


def putative_matches(matcher: PairMatcher, one: Described, two: Described) -> Rows:
    """What `matcher` matches, once it has proved sound; FeatureFault where it has not."""
    try:
        matches = np.asarray(matcher(one, two))
    except Exception as error:
        raise FeatureFault(f"matches raised {type(error).__name__}") from error
    if matches.ndim != 2 or matches.shape[1] != 2 or matches.dtype.kind not in "iu":
        raise FeatureFault(f"matches of {matches.dtype} and shape {matches.shape}")
    if (matches < 0).any() or (matches >= (len(one), len(two))).any():
        raise FeatureFault("matches of keypoints that are not there")
    if any(len(np.unique(column)) < len(column) for column in matches.T):
        raise FeatureFault("several matches of one keypoint")
    return matches.astype(np.uint32)
