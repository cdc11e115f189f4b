"""RetrievalNetwork: trunk, pooling and L2 norm, which turn images into descriptors."""

import hashlib
from collections.abc import Sequence
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from cnnimretrieval.networks.backbones import build_trunk, check_backbone_name
from cnnimretrieval.networks.batch_norm import merge_batch_norm
from cnnimretrieval.networks.linear import at_every_location, identity_linear
from cnnimretrieval.networks.local_head import LocalConfig, LocalHead, LocalMaps
from cnnimretrieval.networks.pooling import Gem, PoolingName, Regional, build_pooling, l2_normalise
from cnnimretrieval.networks.scales import require_factors
from cnnimretrieval.networks.trunk import Trunk
from cnnimretrieval.networks.trunk_stages import Stage, find_stage, run_to, watch
from cnnimretrieval.whitening.apply import Whitening
from groundwork.settings import Settings

# Parts that a network may have or not: see `_identity`.
_OPTIONS = (
    "local_whitening",
    "regional",
    "region_whitening",
    "projection",
    "merged_batch_norm",
    "mean",
    "std",
    "image_size",
    "scales",
    "bucket_px",
    "local",
)

Rgb = tuple[float, float, float]
_Spread = Annotated[float, Field(gt=0.0)]


class NetworkConfig(Settings):
    """What a retrieval network is made of, and the size and scales it is meant for.

    A part that is not named is left out. `image_size` and `scales` are what its descriptors were proved with,
    and what whoever describes photos with it takes unless told otherwise.
    """

    backbone: str = Field(default="resnet18", description="a torchvision backbone, or timm:NAME")
    pooling: PoolingName = "gem"
    gem_p: float = Field(default=3.0, ge=1.0, description="the exponent that GeM starts from")
    local_whitening: bool = Field(default=False, description="a linear layer at every location, then pooling")
    regional: bool = Field(default=False, description="pool the regions of R-MAC's grid, sum their vectors")
    region_whitening: bool = Field(default=False, description="a linear layer on the vector of each region")
    projection: int | None = Field(
        default=None, gt=0, description="length of descriptors after a linear layer at the end"
    )
    # Left out of what is written where it is off.
    merged_batch_norm: bool = Field(
        default=False,
        exclude_if=lambda merged: not merged,
        description="each normalisation is part of its convolution, which learns as one",
    )
    mean: Rgb | None = Field(default=None, description="of RGB in [0, 1]; the backbone's own when not set")
    std: tuple[_Spread, _Spread, _Spread] | None = Field(
        default=None, description="of RGB in [0, 1]; the backbone's own when not set"
    )
    # This, too, is left out of what is written: files of networks without are what they always were.
    local: LocalConfig | None = Field(
        default=None,
        exclude_if=lambda local: local is None,
        description="a head for local features on the stage at stride 16; none unless one of its keys is set",
    )
    image_size: int | None = Field(
        default=None, gt=0, description="longest side in px at which photos are described; 1024 when not set"
    )
    scales: tuple[float, ...] = Field(
        default=(1.0,), min_length=1, description="factors on top of image_size; the same"
    )
    # Left out of what is written unless it is set, too.
    bucket_px: int | None = Field(
        default=None,
        gt=0,
        exclude_if=lambda bucket_px: bucket_px is None,
        description="both sides of a picture become the nearest multiple of it, so that pictures of nearly "
        "one shape go through together; not published",
    )

    @field_validator("scales")
    @classmethod
    def _factors(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        return require_factors(scales)

    @field_validator("backbone")
    @classmethod
    def _known(cls, name: str) -> str:
        return check_backbone_name(name)

    @model_validator(mode="after")
    def _consistent(self) -> "NetworkConfig":
        if self.regional and self.pooling == "rmac":
            raise ValueError(
                "regional: expected pooling mac, spoc, gem or gemmp, got rmac, which has regions of its own; "
                "choose one of the two"
            )
        if self.region_whitening and not self.regional:
            raise ValueError(
                "region_whitening: expected regional = true, got false; set it, or leave region_whitening out"
            )
        return self


class RetrievalNetwork(nn.Module):
    """Images to unit descriptors: trunk, [local whitening], pooling, L2, [projection, L2].

    `whitening`, once learned, is kept with it and applied by extraction; `multi_scale_whitening` takes its
    place for descriptors of several scales where there is one. A `local` head, where there is one, stands on
    the map of `stage` inside the trunk; it takes no part in descriptors.
    """

    def __init__(
        self,
        config: NetworkConfig,
        trunk: Trunk,
        whitening: Whitening | None = None,
        multi_scale_whitening: Whitening | None = None,
    ) -> None:
        super().__init__()
        channels = trunk.out_channels
        if config.projection is not None and config.projection > channels:
            raise ValueError(
                f"projection: expected at most the {channels} dimensions of {config.backbone}, got "
                f"{config.projection}; choose a smaller one"
            )
        self.config = config
        self.trunk = trunk
        self.local_whitening = identity_linear(channels, channels) if config.local_whitening else None
        pool = build_pooling(config.pooling, config.gem_p, channels)
        region_whitening = identity_linear(channels, channels) if config.region_whitening else None
        self.pool = Regional(pool, region_whitening) if config.regional else pool
        self.projection = identity_linear(channels, config.projection) if config.projection else None
        self.whitening = whitening
        self.multi_scale_whitening = multi_scale_whitening
        self.stage: Stage | None = None
        self.local: LocalHead | None = None
        if config.local is not None:
            self.stage = find_stage(trunk)
            watch(trunk, self.stage)
            self.local = LocalHead(config.local, self.stage.channels)

    @property
    def dim(self) -> int:
        """D, the length of a descriptor before whitening."""
        return self.config.projection or self.trunk.out_channels

    @property
    def exponent(self) -> nn.Parameter | None:
        """GeM's exponents, for which training has settings of their own; None for other poolings."""
        pool = self.pool.pool if isinstance(self.pool, Regional) else self.pool
        return pool.p if isinstance(pool, Gem) else None

    @property
    def multi_scale_power(self) -> float:
        """The exponent of the mean over scales (msp): GeM's p for plain GeM, else 1, as published."""
        plain = not self.config.regional and self.config.projection is None
        if self.config.pooling == "gem" and plain and isinstance(self.pool, Gem):
            return float(self.pool.power.item())
        return 1.0

    def whitening_for(self, scales: Sequence[float]) -> Whitening | None:
        """The whitening of descriptors of these scales, or None when none was learned."""
        several = len(scales) > 1 and self.multi_scale_whitening is not None
        return self.multi_scale_whitening if several else self.whitening

    def without_projection(self) -> "RetrievalNetwork":
        """The same network up to its projection, of the very same layers; without whitening."""
        config = self.config.model_copy(update={"projection": None, "local": None})
        shorter = RetrievalNetwork(config, self.trunk).train(self.training)
        shorter.local_whitening, shorter.pool = self.local_whitening, self.pool
        return shorter

    def with_pooling(self, pool: nn.Module) -> "RetrievalNetwork":
        """The same network, of the very same layers, that pools by `pool`; without whitening."""
        config = self.config.model_copy(update={"local": None})
        other = RetrievalNetwork(config, self.trunk).train(self.training)
        other.local_whitening, other.pool, other.projection = self.local_whitening, pool, self.projection
        return other

    def with_local(self, local: LocalConfig | None) -> "RetrievalNetwork":
        """The same network, of the very same layers and whitening, with a local head as it starts or none."""
        config = self.config.model_copy(update={"local": local})
        more = RetrievalNetwork(config, self.trunk, self.whitening, self.multi_scale_whitening)
        more.local_whitening, more.pool, more.projection = self.local_whitening, self.pool, self.projection
        return more.train(self.training)

    def without_local(self) -> "RetrievalNetwork":
        """The same network, of the very same layers and whitening, that has no local head."""
        return self if self.local is None else self.with_local(None)

    def require_local(self) -> tuple[Stage, LocalHead]:
        """The stage and the head of local features; ValueError when the network has none."""
        if self.stage is None or self.local is None:
            raise ValueError(
                f"network: expected one with a local head, got {self.config.backbone}:{self.config.pooling} "
                "without; train one with train.network.local.reduction set"
            )
        return self.stage, self.local

    def stage_map(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c h2 w2"]:
        """The map that the local head stands on, without gradient; ValueError when there is no such head."""
        stage, _ = self.require_local()
        with torch.no_grad():
            return run_to(self.trunk, images, stage)

    def local_maps(self, images: Float[Tensor, "b 3 h w"]) -> LocalMaps:
        """Local descriptors and scores of images; gradients reach the head and nothing below it."""
        _, head = self.require_local()
        maps: LocalMaps = head(self.stage_map(images))
        return maps

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Unit descriptors, float32, not whitened, of images normalised with the trunk's mean and std."""
        return self.of_activations(self.trunk(images))

    def of_activations(self, activations: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Unit descriptors as `forward` makes them of what the trunk gives."""
        if self.local_whitening is not None:
            activations = at_every_location(self.local_whitening, activations)
        with torch.autocast(device_type=activations.device.type, enabled=False):
            descriptors = l2_normalise(self.pool(activations).float())
            return descriptors if self.projection is None else l2_normalise(self.projection(descriptors))

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the config and all weights, without the whitening."""
        digest = hashlib.sha256(_identity(self.config).encode())
        for key, value in sorted(self.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def build(config: NetworkConfig, weights: str = "pretrained", seed: int = 0) -> RetrievalNetwork:
    """A network without whitening, for evaluation; `weights` and the errors are those of `build_trunk`."""
    trunk = build_trunk(config.backbone, weights, seed)
    if config.merged_batch_norm:
        merge_batch_norm(trunk)
    trunk.mean, trunk.std = config.mean or trunk.mean, config.std or trunk.std
    return RetrievalNetwork(config, trunk).eval()


def _identity(config: NetworkConfig) -> str:
    """What tells networks apart: an option that is off changes no fingerprint, new as it may be."""
    unused = {name for name in _OPTIONS if getattr(config, name) == NetworkConfig.model_fields[name].default}
    return config.model_dump_json(exclude=unused)
