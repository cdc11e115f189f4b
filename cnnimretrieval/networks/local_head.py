"""LocalHead: what turns the map of a stage into local descriptors and scores of attention, place by place."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from cnnimretrieval.networks.linear import at_every_location
from cnnimretrieval.networks.pooling import l2_normalise
from groundwork.settings import Settings

# Percentiles of the scores of training photos that a head knows: of 0, 1, ... 100 %.
NUM_QUANTILES = 101
_DIM = {"autoencoder": 128, "pca": 40, "whitening": 128}


class LocalConfig(Settings):
    """What a local head is made of.

    DELG has an autoencoder, DELF a PCA, HOW a whitening of smoothed maps; HOW attends to what is long.
    """

    reduction: Literal["autoencoder", "pca", "whitening"] = Field(
        default="autoencoder", description="to short descriptors; pca and whitening are computed, not learned"
    )
    dim: int | None = Field(
        default=None, gt=0, description="length of descriptors; 128, of a pca 40, or all channels if fewer"
    )
    attention: Literal["learned", "norm"] = Field(
        default="learned", description="to places: by two layers, or the length of their activations"
    )
    hidden: int = Field(default=512, gt=0, description="channels between the layers of attention")


class LocalMaps(NamedTuple):
    """What a head makes of a map (b, c, h, w).

    `reconstruction` is what its autoencoder gives back, None where it has none.
    """

    descriptors: Float[Tensor, "b d h w"]
    scores: Float[Tensor, "b h w"]
    reconstruction: Float[Tensor, "b c h w"] | None


class LocalHead(nn.Module):
    """Unit descriptors and scores of attention, at least 0, of every place of a map.

    Cao et al., ECCV 2020 (DELG); Noh et al., ICCV 2017 (DELF); Tolias et al., ECCV 2020 (HOW).

    DELG:  code = W x + b, reconstruction = relu(W' code + b'), descriptor = code / |code|
    DELF:  descriptor = PCA of x / |x|, unit again;   HOW: whitening of the 3 x 3 mean of x, unit
    attention = softplus(w relu(BN(V y)) + v) of the reconstruction y, or of x where there is none; or |x|

    `score_quantiles` holds percentiles of the scores of training photos: scores themselves have no scale.
    """

    score_quantiles: Tensor

    def __init__(self, config: LocalConfig, channels: int, seed: int = 0) -> None:
        super().__init__()
        dim = config.dim or min(_DIM[config.reduction], channels)
        if dim > channels:
            raise ValueError(
                f"local.dim: expected at most the {channels} channels of the map, got {dim}; "
                "choose a smaller one"
            )
        self.config = config
        self.dim = dim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            learned = config.reduction == "autoencoder"
            self.reduce = nn.Linear(channels, dim).requires_grad_(learned)
            self.expand = nn.Linear(dim, channels) if learned else None
            self.attention = _attention(channels, config.hidden) if config.attention == "learned" else None
        self.register_buffer("score_quantiles", torch.zeros(NUM_QUANTILES))

    def forward(self, x: Float[Tensor, "b c h w"]) -> LocalMaps:
        """Descriptors, scores and reconstruction of a map; no gradient goes back into it."""
        x = x.detach()
        with torch.autocast(device_type=x.device.type, enabled=False):
            x = x.float()
            code = at_every_location(self.reduce, self.reducible(x))
            reconstruction = None
            if self.expand is not None:
                reconstruction = at_every_location(self.expand, code).relu()
            seen = x if reconstruction is None else reconstruction
            return LocalMaps(unit_places(code), self._scores(x, seen), reconstruction)

    def reducible(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """What is projected to short descriptors: the map, smoothed for a whitening, unit for a PCA."""
        if self.config.reduction == "whitening":
            # Places at the border are means of those that there are.
            return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        return unit_places(x) if self.config.reduction == "pca" else x

    def _scores(self, x: Float[Tensor, "b c h w"], seen: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h w"]:
        if self.attention is None:
            length: Tensor = torch.linalg.vector_norm(x, dim=1)
            return length
        return functional.softplus(self.attention(seen))[:, 0]


def unit_places(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """The vector of every place at length 1; zeros stay zeros."""
    return l2_normalise(x.movedim(1, -1)).movedim(-1, 1)


def attention_pooled(x: Float[Tensor, "b c h w"], scores: Float[Tensor, "b h w"]) -> Float[Tensor, "b c"]:
    """Mean over the places of score times unit vector, as DELF and DELG pool what attention learns from."""
    return (unit_places(x) * scores[:, None]).mean(dim=(2, 3))


def _attention(channels: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 1), nn.BatchNorm2d(hidden), nn.ReLU(), nn.Conv2d(hidden, 1, 1)
    )
