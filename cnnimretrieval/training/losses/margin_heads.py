"""Soft-max over classes with a margin: ArcFace, CosFace, SphereFace and ArcFace with sub-centres.

All compare unit vectors with unit weights of classes, one of them or several (sub-centres) for each. With
theta the angle to the nearest centre of the true class and s a scale, the logit of that class is

    arcface     s cos(theta + m)  where theta <= pi - m, else s cos(theta)    Deng et al., CVPR 2019; DELG
    cosface     s (cos theta - m)                                             Wang et al., CVPR 2018
    sphereface  s ((-1)^k cos(m theta) - 2 k), k = floor(m theta / pi)        Liu et al., CVPR 2017

and s cos of the angle for every other one. Classes are told apart by masks, too: classes of one place may
show the same, so they never compete.
"""

from collections.abc import Callable, Mapping
from math import cos, pi, sin, sqrt
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from groundwork.settings import Settings

MarginName = Literal["arcface", "cosface", "sphereface", "subcentre_arcface"]

# The slope of the arc cosine is infinite at -1 and 1.
_SAFE = 1.0 - 1e-6
_MARGINS: Mapping[MarginName, float] = {
    "arcface": 0.1,
    "cosface": 0.35,
    "sphereface": 1.5,
    "subcentre_arcface": 0.1,
}


class MarginConfig(Settings):
    """Constants of the losses over classes; the scale is that of DELG, sqrt(2048)."""

    margin: float | None = Field(
        default=None,
        gt=0,
        le=4,
        description="an angle of arcface (0.1), a cosine of cosface (0.35), a factor of sphereface (1.5)",
    )
    scale: float = Field(default=sqrt(2048.0), gt=0, description="of cosines, before the soft-max")
    learned_scale: bool = Field(default=False, description="the scale learns, too")
    rate_factor: float = Field(
        default=100.0, ge=0, le=1e6, description="class weights learn this much faster than the trunk"
    )
    centres: int = Field(default=3, ge=1, description="of each class; subcentre_arcface")


def arcface(cosine: Float[Tensor, " b"], margin: float) -> Float[Tensor, " b"]:
    """cos(theta + m), or cos(theta) beyond pi - m, where adding would bring the two nearer again."""
    safe = cosine.clamp(-_SAFE, _SAFE)
    moved = safe * cos(margin) - (1.0 - safe.square()).sqrt() * sin(margin)
    return torch.where(cosine >= cos(pi - margin), moved, cosine)


def cosface(cosine: Float[Tensor, " b"], margin: float) -> Float[Tensor, " b"]:
    """cos(theta) - m."""
    return cosine - margin


def sphereface(cosine: Float[Tensor, " b"], margin: float) -> Float[Tensor, " b"]:
    """cos(m theta), continued so that it falls all the way to theta = pi."""
    theta = torch.acos(cosine.clamp(-_SAFE, _SAFE))
    turns = (margin * theta.detach() / pi).floor()
    sign = 1.0 - 2.0 * (turns % 2)
    return sign * torch.cos(margin * theta) - 2.0 * turns


_TARGETS: Mapping[MarginName, Callable[[Tensor, float], Tensor]] = {
    "arcface": arcface,
    "cosface": cosface,
    "sphereface": sphereface,
    "subcentre_arcface": arcface,
}
MARGIN_HEADS: tuple[MarginName, ...] = tuple(_TARGETS)


class MarginHead(nn.Module):
    """Class weights, unit when they are used, and the loss with a margin over them; drawn from `seed`."""

    def __init__(
        self, name: MarginName, dim: int, num_classes: int, config: MarginConfig, seed: int = 0
    ) -> None:
        super().__init__()
        self.name = name
        self.margin = _MARGINS[name] if config.margin is None else config.margin
        self.centres = config.centres if name == "subcentre_arcface" else 1
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(num_classes, self.centres, dim, generator=generator)
        self.weight = nn.Parameter(functional.normalize(drawn, dim=-1))
        self.scale = nn.Parameter(torch.tensor(config.scale), requires_grad=config.learned_scale)

    def cosines(self, vectors: Float[Tensor, "b d"]) -> Float[Tensor, "b c"]:
        """Cosine of the angle to the nearest centre of every class, in float32."""
        unit = functional.normalize(vectors.float(), dim=-1)
        centres = functional.normalize(self.weight, dim=-1)
        return torch.einsum("bd,ckd->bck", unit, centres).amax(dim=2)

    def forward(
        self,
        vectors: Float[Tensor, "b d"],
        labels: Int[Tensor, " b"],
        competes: Bool[Tensor, "c c"] | None = None,
    ) -> Float[Tensor, " b"]:
        """Cross entropy of each vector with its class; in row `labels`, only classes that compete count.

        Computed in float32 whatever the type of the vectors, also under autocast.
        """
        with torch.autocast(device_type=vectors.device.type, enabled=False):
            cosine = self.cosines(vectors)
            own = cosine.gather(1, labels[:, None])[:, 0]
            target = _TARGETS[self.name](own, self.margin)
            return _cross_entropy(
                self.scale * cosine.scatter(1, labels[:, None], target[:, None]), labels, competes
            )


class PlainHead(nn.Linear):
    """Soft-max over classes without a margin, with a bias, as DELF and DELG teach attention."""

    def forward(  # type: ignore[override]
        self,
        vectors: Float[Tensor, "b d"],
        labels: Int[Tensor, " b"],
        competes: Bool[Tensor, "c c"] | None = None,
    ) -> Float[Tensor, " b"]:
        """As in `MarginHead`."""
        return _cross_entropy(super().forward(vectors), labels, competes)


def _cross_entropy(
    logits: Float[Tensor, "b c"], labels: Int[Tensor, " b"], competes: Bool[Tensor, "c c"] | None
) -> Float[Tensor, " b"]:
    if competes is not None:
        itself = functional.one_hot(labels, logits.shape[1]).bool()
        logits = logits.masked_fill(~(competes[labels] | itself), -torch.inf)
    return functional.cross_entropy(logits, labels, reduction="none")
