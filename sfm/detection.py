"""How keypoints are found in one photo, and said in its stored pixels."""

import math
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from pydantic import Field, field_validator

from groundwork.digest import sha256_of
from groundwork.keys import key_of
from groundwork.photos import load_gray
from groundwork.plugins import plugin_key, require_plugin
from groundwork.settings import Settings
from sfm.local_features.interface import METHODS, Found, find, load_method

_VERSION = 4
# Settings that change what is found, besides method and weights.
_DECIDING = {"max_side_px", "max_features", "first_octave"}


class FeatureConfig(Settings):
    """How local features are found."""

    method: str = Field(
        default="sift",
        description="sift, or a plug-in: an entry point of another package in the group "
        "cnnimretrieval.local_features, or path/to/file.py:Name",
    )
    max_side_px: int = Field(
        default=1600, ge=64, description="larger photos are shrunk to this longer side first"
    )
    max_features: int = Field(default=2048, ge=16, description="keypoints kept a photo, the largest ones")
    first_octave: int = Field(
        default=0, ge=-1, le=2, description="-1 doubles the photo first: 3 x the time and memory"
    )
    weights: Path | None = Field(
        default=None, description="file of a learned method's weights, in place of those it brings"
    )
    keep_descriptors: bool = Field(
        default=False,
        description="after matching: up to 0.26 MB a photo, five times what else is kept of it. Without "
        "them, photos that are matched with new ones or under other settings are opened again, and an added "
        "photo costs about 8 times as much. No result depends on it.",
    )

    @field_validator("method")
    @classmethod
    def _method_exists(cls, name: str) -> str:
        require_plugin(name, METHODS)
        return name

    @property
    def key(self) -> str:
        """Changes with anything but the photo itself that changes its features."""
        settings = self.model_dump(mode="json", include=_DECIDING)
        code = plugin_key(self.method, METHODS)
        if self.weights is not None:
            code += f" {sha256_of(self.weights)}"
        return key_of("features", _VERSION, version("pycolmap"), version("pillow"), settings, code)


PhotoDetector = Callable[[Path, int, int], Found]


def detector(config: FeatureConfig) -> PhotoDetector:
    """Return a function from a photo, with its stored width and height, to its keypoints and descriptors.

    Keypoints are x, y, scale (stored pixels), orientation; the best first. For child processes only. The
    function raises UnusablePhoto for a photo that cannot be read, FeatureFault where the method gave nothing
    sound.
    """
    method = load_method(config.method, config.weights)
    detect = method.detector(max_features=config.max_features, first_octave=config.first_octave)

    def detect_in(path: Path, width: int, height: int) -> Found:
        gray = load_gray(path, config.max_side_px)
        keypoints, descriptors = find(detect, gray)
        return _in_stored_pixels(keypoints, width / gray.shape[1], height / gray.shape[0]), descriptors

    return detect_in


def _in_stored_pixels(
    keypoints: Float32[np.ndarray, "n 4"], stretch_x: float, stretch_y: float
) -> Float32[np.ndarray, "n 4"]:
    """Keypoints x, y, scale, orientation of a shrunk photo in pixels of the stored one."""
    stretch = np.array([stretch_x, stretch_y, math.sqrt(stretch_x * stretch_y), 1.0], dtype=np.float32)
    return keypoints * stretch
