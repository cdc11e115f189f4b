"""A network in two halves, its lowest layers and the others, and what passes between: parts of requests."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor
from torch.nn import functional

from cnnimretrieval.descriptors.tensors import in_bucket, normalise
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.networks.precision import Precision

KeptAs = Literal["float32", "float16"]
# Of one request: its levels, or activations (c, h, w), a tensor a scale.
Parts = tuple[Shaped[Tensor, "_ _ _"], ...]


@dataclass(frozen=True, kw_only=True)
class Look:
    """How a request is shown to a network."""

    image_size: int
    scales: tuple[float, ...] = (1.0,)
    precision: Precision = "float32"

    def autocast(self, device_type: str) -> torch.autocast:
        """The context in which layers compute in this precision."""
        dtype = torch.float16 if self.precision == "float16" else torch.bfloat16
        return torch.autocast(device_type, dtype, enabled=self.precision != "float32")


def below(
    network: RetrievalNetwork, num_layers: int, levels: UInt8[Tensor, "b 3 h w"], look: Look
) -> list[Float[Tensor, "b c _ _"]]:
    """What the lowest layers make of pictures of one size, at each scale; without a gradient.

    A scaled picture is the bilinear resize of the normalised one, as in the published protocol (Radenovic et
    al., TPAMI 2019).
    """
    levels = in_bucket(levels, network.config.bucket_px)
    images = normalise(levels, network.trunk.mean, network.trunk.std)
    # The order in memory that convolutions like: 15 to 25 % faster on a CPU, results equal to 1e-6.
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.no_grad(), look.autocast(levels.device.type):
        return [network.trunk.below(_scaled(images, scale), num_layers) for scale in look.scales]


def stacked(several: Sequence[Parts]) -> list[Shaped[Tensor, "b _ _ _"]]:
    """Parts of equal shapes as batches, a tensor a scale, in the order in memory that convolutions like."""
    return [
        torch.stack([part.permute(1, 2, 0) for part in same]).permute(0, 3, 1, 2)
        for same in zip(*several, strict=True)
    ]


def above(
    network: RetrievalNetwork,
    num_layers: int,
    activations: Float[Tensor, "b c h w"],
    look: Look,
    *,
    recompute: bool = False,
) -> Float[Tensor, "b d"]:
    """Unit descriptors that the other layers make of what the lowest gave; float32 in any precision.

    With `recompute` each layer keeps only what goes into it, and works again on the way back.
    """
    with look.autocast(activations.device.type):
        return network.of_activations(network.trunk.above(activations, num_layers, recompute=recompute))


def packed(activations: Float[Tensor, "c h w"], kept_as: KeptAs) -> Shaped[np.ndarray, "h w c"]:
    """Activations as numbers that are kept: bfloat16 as its bits, float16 where all of them fit."""
    last = activations.permute(1, 2, 0).contiguous().cpu()
    if last.dtype == torch.bfloat16:
        bits: np.ndarray = last.view(torch.uint16).numpy()
        return bits
    if kept_as == "float16":
        half = last.half()
        last = half if bool(half.isfinite().all()) else last
    numbers: np.ndarray = last.numpy()
    return numbers


def unpacked(kept: Shaped[np.ndarray, "_ _ _"]) -> Shaped[Tensor, "_ _ _"]:
    """What `packed` was given, as far as it was kept; levels as they are."""
    tensor = torch.from_numpy(kept)
    if tensor.dtype == torch.uint8:
        return tensor
    tensor = tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor.float()
    return tensor.permute(2, 0, 1)


def _scaled(images: Float[Tensor, "b 3 h w"], scale: float) -> Float[Tensor, "b 3 h2 w2"]:
    if scale == 1.0:
        return images
    # Never below one pixel; otherwise the sides are floor(side * scale) and `scale` itself places the
    # samples.
    if min(images.shape[-2:]) * scale < 1.0:
        sides = [max(1, int(side * scale)) for side in images.shape[-2:]]
        return functional.interpolate(images, size=sides, mode="bilinear", align_corners=False)
    return functional.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)
