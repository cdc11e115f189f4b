"""Pooling of activation maps (b, c, h, w) into rows (b, c): MAC, SPoC, GeM, R-MAC, regional; the L2 norm."""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cnnimretrieval.networks.regions import LEVELS, region_grid

PoolingName = Literal["mac", "spoc", "gem", "gemmp", "rmac"]


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
    float16. Powers are taken of x / max(x), which is the same mean and fits for every p: a channel of zeros
    is eps**p, below what float32 knows from p = 8 on.
    """
    with torch.autocast(device_type=x.device.type, enabled=False):
        clamped, exponent = _at_least_float32(x).clamp(min=eps), _at_least_float32(p)
        largest = clamped.detach().amax(dim=(2, 3), keepdim=True)
        powers = (clamped / largest).pow(exponent[:, None, None])
        pooled: Tensor = powers.mean(dim=(2, 3)).pow(1.0 / exponent) * largest[:, :, 0, 0]
    return pooled


def rmac(x: Float[Tensor, "b c h w"], levels: int = LEVELS, eps: float = 1e-6) -> Float[Tensor, "b c"]:
    """Sum of the L2-normalised maxima of the regions of `region_grid` (R-MAC; Tolias et al., ICLR 2016).

    The sum is not L2-normalised.
    """
    maxima = torch.stack([mac(part) for part in _parts(x, levels)], dim=1)
    return l2_normalise(_at_least_float32(maxima), eps).sum(dim=1)


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


class Rmac(nn.Module):
    """`rmac` as a layer."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c"]:
        """See `rmac`."""
        return rmac(x)


class Gem(nn.Module):
    """`gem` with a learned exponent `p` for all channels, or with `num_exponents` of them one for each.

    The exponent in use is max(p, 1), as in the MatConvNet training of the TPAMI paper: below 1 the mean
    would favour the weakest activations, and a p that crosses 0 ends in infinities. (The published PyTorch
    code leaves p as it is, which is the same for every p that was published.)
    """

    def __init__(self, p: float = 3.0, eps: float = 1e-6, num_exponents: int = 1) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.full((num_exponents,), p))
        self.eps = eps

    @property
    def power(self) -> Float[Tensor, " k"]:
        """The exponents in use, at least 1."""
        return self.p.clamp(min=1.0)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c"]:
        """See `gem`."""
        return gem(x, self.power, self.eps)


class Regional(nn.Module):
    """Pooling of every region of `region_grid`: L2, [whitening, L2], sum over the regions, L2.

    Called Rpool in the reference toolbox. `whitening` is a linear layer that all regions share.
    """

    def __init__(self, pool: nn.Module, whitening: nn.Linear | None = None, levels: int = LEVELS) -> None:
        super().__init__()
        self.pool = pool
        self.whitening = whitening
        self.levels = levels

    def region_vectors(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b r c"]:
        """The unit vectors of the regions, in the order of `region_grid`."""
        pooled = torch.stack([self.pool(part) for part in _parts(x, self.levels)], dim=1)
        with torch.autocast(device_type=x.device.type, enabled=False):
            vectors = l2_normalise(_at_least_float32(pooled))
            return vectors if self.whitening is None else l2_normalise(self.whitening(vectors))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c"]:
        """The unit vectors of the images."""
        return l2_normalise(self.region_vectors(x).sum(dim=1))


# How each pooling is built, from the exponent that GeM starts from and the number of channels. A new one
# takes a line here and its name in `PoolingName`.
POOLINGS: Mapping[PoolingName, Callable[[float, int], nn.Module]] = {
    "mac": lambda p, channels: Mac(),
    "spoc": lambda p, channels: Spoc(),
    "gem": lambda p, channels: Gem(p),
    "gemmp": lambda p, channels: Gem(p, num_exponents=channels),
    "rmac": lambda p, channels: Rmac(),
}


def build_pooling(name: PoolingName, p: float = 3.0, channels: int = 1) -> nn.Module:
    """The pooling layer called `name`, of maps with so many `channels`; `p` is where GeM starts.

    "gem" has one exponent, "gemmp" one for each channel. ValueError for an unknown name.
    """
    if name not in POOLINGS:
        raise ValueError(f"pooling: expected one of {', '.join(POOLINGS)}, got {name!r}; choose one of them")
    return POOLINGS[name](p, channels)


def _parts(x: Float[Tensor, "b c h w"], levels: int) -> list[Float[Tensor, "b c _ _"]]:
    return [
        x[:, :, region.y : region.y + region.height, region.x : region.x + region.width]
        for region in region_grid(x.shape[2], x.shape[3], levels)
    ]


def _at_least_float32(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    return x if x.dtype == torch.float64 else x.float()
