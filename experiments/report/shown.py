"""Photos with their local features, of a named method or of a network, to be matched and drawn."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from cnnimretrieval.descriptors.extract import evaluating
from cnnimretrieval.descriptors.images import ImageRequest, open_request
from cnnimretrieval.local.detected import LONGEST_PX, detect_each, shown_size
from cnnimretrieval.local.features import LocalFeatures
from cnnimretrieval.local.pyramid import Attention, LocalDescriber, PyramidConfig
from cnnimretrieval.networks.network import RetrievalNetwork
from sfm.detection import FeatureConfig
from sfm.kept_features import KeptFeatures


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """What a request shows, its features, and what a network attends to in it where that is known.

    Keypoints lie in something `width` px wide, of which `picture` may be a smaller copy; attention lies in
    `picture`. Nothing was found, and `reason` says why, in what cannot be used.
    """

    picture: Image.Image
    width: float
    features: LocalFeatures
    attention: Attention | None = None
    reason: str = ""

    @property
    def scale(self) -> float:
        """Pixels of `picture` a pixel of the photo."""
        return self.picture.width / self.width


class Finder(Protocol):
    """Finds local features in photos."""

    def find(self, requests: Sequence[ImageRequest]) -> list[Shown]:
        """What each shows, with its features; OSError for a photo that cannot be read."""

    def attend(self, shown: Shown) -> Shown:
        """The same with what is attended to, where there is something that attends."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MethodFinder:
    """By a method of `sfm` in `workers` other processes, or as a reconstruction `kept` it."""

    config: FeatureConfig
    workers: int = 1
    kept: KeptFeatures | None = None

    def find(self, requests: Sequence[ImageRequest]) -> list[Shown]:
        """See `Finder`."""
        pictures = [open_request(request, LONGEST_PX) for request in requests]
        found = detect_each(requests, self.config, kept=self.kept, workers=self.workers)
        return [
            Shown(
                picture=picture,
                width=shown_size(request)[0],
                features=detected.features(),
                reason=detected.reason,
            )
            for request, picture, detected in zip(requests, pictures, found, strict=True)
        ]

    def attend(self, shown: Shown) -> Shown:
        """See `Finder`; a method attends to nothing."""
        return shown


class NetworkFinder:
    """By the local head of a network, which attends; ValueError when it has none."""

    def __init__(self, network: RetrievalNetwork, config: PyramidConfig, device: str = "cpu") -> None:
        self._network = network.to(device)
        self._describer = LocalDescriber(network, config)
        self._image_size, self._device = config.image_size, device

    def find(self, requests: Sequence[ImageRequest]) -> list[Shown]:
        """See `Finder`."""
        shown = []
        with evaluating(self._network):
            for request in requests:
                picture = open_request(request, self._image_size).convert("RGB")
                features = self._describer.of(self._levels(picture))
                shown.append(Shown(picture=picture, width=float(picture.width), features=features))
        return shown

    def attend(self, shown: Shown) -> Shown:
        """See `Finder`."""
        with evaluating(self._network):
            return replace(shown, attention=self._describer.attention(self._levels(shown.picture)))

    def _levels(self, picture: Image.Image) -> UInt8[Tensor, "3 h w"]:
        levels = np.asarray(picture, dtype=np.uint8).transpose(2, 0, 1).copy()
        return torch.from_numpy(levels).to(self._device)
