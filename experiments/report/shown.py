"""Photos with their local features, of a named method or of a network, to be matched and drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cnnimretrieval.descriptors.extract import evaluating
from cnnimretrieval.descriptors.images import ImageRequest, open_request
from cnnimretrieval.local.detected import LONGEST_PX, detect_each, full_size
from cnnimretrieval.local.features import LocalFeatures
from cnnimretrieval.local.pyramid import Attention, LocalDescriber, PyramidConfig
from cnnimretrieval.networks.network import RetrievalNetwork
from sfm.features import FeatureConfig


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


def by_method(
    requests: Sequence[ImageRequest], config: FeatureConfig, *, cache: Path | None = None, workers: int = 1
) -> list[Shown]:
    """With the features of a method; OSError for a photo that cannot be read."""
    pictures = [open_request(request, LONGEST_PX) for request in requests]
    found = detect_each(requests, config, cache=cache, workers=workers)
    return [
        Shown(
            picture=picture,
            width=full_size(request)[0],
            features=detected.features(),
            reason=detected.reason,
        )
        for request, picture, detected in zip(requests, pictures, found, strict=True)
    ]


def by_network(
    requests: Sequence[ImageRequest], network: RetrievalNetwork, config: PyramidConfig, *, device: str = "cpu"
) -> list[Shown]:
    """With the features and the attention of a network; OSError for a photo that cannot be read.

    ValueError when the network has no local head.
    """
    network.to(device)
    describer = LocalDescriber(network, config)
    shown = []
    with evaluating(network):
        for request in requests:
            picture = open_request(request, config.image_size).convert("RGB")
            levels = torch.from_numpy(np.asarray(picture).transpose(2, 0, 1).copy()).to(device)
            shown.append(
                Shown(
                    picture=picture,
                    width=float(picture.width),
                    features=describer.of(levels),
                    attention=describer.attention(levels),
                )
            )
    return shown
