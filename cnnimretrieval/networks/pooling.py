"""Pooling of activation maps (b, c, h, w) into rows (b, c): MAC, SPoC and GeM, and the L2 norm after it."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

PoolingName = Literal["mac", "spoc", "gem"]
POOLINGS: tuple[PoolingName, ...] = ("mac", "spoc", "gem")


def mac(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c"]:
    """Maximum of each channel over the image plane (MAC; Tolias et al., ICLR 2016). Not L2-normalised."""
    return x.amax(dim=(2, 3))


def spoc(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c"]:
    """Mean of each channel over the image plane (SPoC; Babenko, Lempitsky, ICCV 2015). Not L2-normalised."""
    return _at_least_float32(x).mean(dim=(2, 3))


def gem(x: Float[Tensor, "b c h w"], p: Float[Tensor, " #c"], eps: float = 1e-6) -> Float[Tensor, "b c"]:
    """Generalised mean of each channel over the image plane.

    f_c = (mean_hw max(x, eps)**p) ** (1/p)     Radenovic et al., TPAMI 2019

    p = 1 is average pooling and p -> inf is max pooling; `p` holds one exponent for all channels or one for
    each. The clamp to `eps` keeps the gradient of x**p finite where the trunk's ReLU gives exact zeros. The
    result is not L2-normalised. Computed in at least float32, also under autocast: 60**3 does not fit
    float16.
    """
    with torch.autocast(device_type=x.device.type, enabled=False):
        powers = _at_least_float32(x).clamp(min=eps).pow(p[:, None, None])
        pooled: Tensor = powers.mean(dim=(2, 3)).pow(1.0 / p)
    return pooled


def l2_normalise(x: Float[Tensor, "*b d"], eps: float = 1e-6) -> Float[Tensor, "*b d"]:
    """Rows of unit length, x / (||x|| + eps); `eps` is the published 1e-6, so a row of zeros stays zero."""
    norms: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / (norms + eps)


class Mac(nn.Module):
    """`mac` as a layer."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c"]:
        """See `mac`."""
        return mac(x)


class Spoc(nn.Module):
    """`spoc` as a layer."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c"]:
        """See `spoc`."""
        return spoc(x)


class Gem(nn.Module):
    """`gem` with one learned exponent `p` for all channels.

    The exponent in use is max(p, 1), as in the MatConvNet training of the TPAMI paper: below 1 the mean
    would favour the weakest activations, and a p that crosses 0 ends in infinities.
    """

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.full((1,), p))
        self.eps = eps

    @property
    def power(self) -> Float[Tensor, " 1"]:
        """The exponent in use, at least 1."""
        return self.p.clamp(min=1.0)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c"]:
        """See `gem`."""
        return gem(x, self.power, self.eps)


def build_pooling(name: PoolingName, p: float = 3.0) -> Mac | Spoc | Gem:
    """The pooling layer called `name`; `p` is the exponent GeM starts from."""
    if name == "mac":
        return Mac()
    if name == "spoc":
        return Spoc()
    if name == "gem":
        return Gem(p)
    raise ValueError(f"pooling: expected one of {', '.join(POOLINGS)}, got {name!r}; choose one of them")


def _at_least_float32(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    return x if x.dtype == torch.float64 else x.float()
