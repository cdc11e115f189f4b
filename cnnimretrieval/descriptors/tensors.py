"""Pictures to what a network takes: RGB levels as tensors, normalised on the device they are on."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional


def to_levels(image: Image.Image) -> UInt8[Tensor, "3 h w"]:
    """The RGB levels of `image`, 0 to 255: a quarter of the bytes of a normalised tensor to send around."""
    return torch.from_numpy(np.array(image.convert("RGB"), dtype=np.uint8)).permute(2, 0, 1).contiguous()


def normalise(
    levels: UInt8[Tensor, "*b 3 h w"], mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "*b 3 h w"]:
    """(levels / 255 - mean) / std, float32, on the device of `levels`."""
    mean_rgb = torch.tensor(mean, device=levels.device)[:, None, None]
    std_rgb = torch.tensor(std, device=levels.device)[:, None, None]
    return levels.float().div_(255.0).sub_(mean_rgb).div_(std_rgb)


def in_bucket(levels: UInt8[Tensor, "b 3 h w"], bucket_px: int | None) -> UInt8[Tensor, "b 3 h2 w2"]:
    """Pictures with both sides at the nearest multiple of `bucket_px`; as they are where it is None.

    Pictures of nearly one shape get the very same one and can go through a network together; each side is
    stretched or squeezed by at most half of `bucket_px`. What lies in its bucket is not touched.
    """
    height, width = levels.shape[-2:]
    if bucket_px is None or (height % bucket_px == 0 and width % bucket_px == 0):
        return levels
    sides = [max(1, round(side / bucket_px)) * bucket_px for side in (height, width)]
    resized = functional.interpolate(levels.float(), sides, mode="bilinear", antialias=True)
    return resized.round_().to(torch.uint8)
