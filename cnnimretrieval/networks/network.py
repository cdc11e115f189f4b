"""RetrievalNetwork: trunk, pooling and L2 norm, which turn images into descriptors; its folder on disk."""

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from jaxtyping import Float
from pydantic import Field, ValidationError, field_validator, model_validator
from safetensors.torch import save_file
from torch import Tensor, nn

from cnnimretrieval.networks.backbones import build_trunk, check_backbone_name
from cnnimretrieval.networks.linear import at_every_location, identity_linear
from cnnimretrieval.networks.pooling import (
    POOLINGS,
    Gem,
    PoolingName,
    Regional,
    build_pooling,
    l2_normalise,
)
from cnnimretrieval.networks.toolbox_files import NETWORKS
from cnnimretrieval.networks.trunk import Trunk
from cnnimretrieval.networks.weights import read_state
from cnnimretrieval.whitening.apply import Whitening, load_whitening, save_whitening
from groundwork.files import atomic_path, write_json
from groundwork.settings import Settings

_CONFIG = "network.json"
_WEIGHTS = "weights.safetensors"
_WHITENING = "whitening.safetensors"
_MULTI_SCALE_WHITENING = "whitening_multi_scale.safetensors"
# Parts that a network may have or not: see `_identity`.
_OPTIONS = ("local_whitening", "regional", "region_whitening", "projection", "mean", "std")

# BACKBONE:POOLING-r pools regions, as in the published names.
_REGIONAL = "-r"

Rgb = tuple[float, float, float]


class NetworkConfig(Settings):
    """What a retrieval network is made of; what is not said here is left out of it."""

    backbone: str = Field(default="resnet18", description="a torchvision backbone, or timm:NAME")
    pooling: PoolingName = "gem"
    gem_p: float = Field(default=3.0, ge=1.0, description="the exponent that GeM starts from")
    local_whitening: bool = Field(default=False, description="a linear layer at every location, then pooling")
    regional: bool = Field(default=False, description="pool the regions of R-MAC's grid, sum their vectors")
    region_whitening: bool = Field(default=False, description="a linear layer on the vector of each region")
    projection: int | None = Field(
        default=None, gt=0, description="length of descriptors after a linear layer at the end"
    )
    mean: Rgb | None = Field(default=None, description="of RGB in [0, 1]; the backbone's own when not set")
    std: Rgb | None = Field(default=None, description="of RGB in [0, 1]; the backbone's own when not set")

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
    place for descriptors of several scales where there is one.
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
        config = self.config.model_copy(update={"projection": None})
        shorter = RetrievalNetwork(config, self.trunk).train(self.training)
        shorter.local_whitening, shorter.pool = self.local_whitening, self.pool
        return shorter

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Unit descriptors, float32, not whitened, of images normalised with the trunk's mean and std."""
        activations = self.trunk(images)
        if self.local_whitening is not None:
            activations = at_every_location(self.local_whitening, activations)
        with torch.autocast(device_type=images.device.type, enabled=False):
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
    trunk.mean, trunk.std = config.mean or trunk.mean, config.std or trunk.std
    return RetrievalNetwork(config, trunk).eval()


def _identity(config: NetworkConfig) -> str:
    """What tells networks apart: an option that is off changes no fingerprint, new as it may be."""
    unused = {name for name in _OPTIONS if getattr(config, name) == NetworkConfig.model_fields[name].default}
    return config.model_dump_json(exclude=unused)


def save(network: RetrievalNetwork, folder: Path) -> None:
    """Write `network` into `folder`; what else lies there stays.

    network.json is removed first and written last, so a folder that was left half-written does not load.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _CONFIG).unlink(missing_ok=True)
    with atomic_path(folder / _WEIGHTS) as unfinished:
        save_file({key: value.contiguous() for key, value in network.state_dict().items()}, unfinished)
    for whitening, name in (
        (network.whitening, _WHITENING),
        (network.multi_scale_whitening, _MULTI_SCALE_WHITENING),
    ):
        if whitening is None:
            (folder / name).unlink(missing_ok=True)
        else:
            save_whitening(whitening, folder / name)
    write_json(folder / _CONFIG, network.config.model_dump(mode="json"))


def load(
    path_or_name: str | Path, weights: str | None = None, whitening_from: str | None = None
) -> RetrievalNetwork:
    """The network MODEL, for evaluation.

    That is a folder that `save` wrote, a checkpoint of the reference toolbox (see `reference`), or an
    off-the-shelf BACKBONE[:POOLING], POOLING-r for regional pooling. `weights` is for off-the-shelf networks
    only: see `backbones.build_trunk`; None means "pretrained". `whitening_from` is for checkpoints only: the
    data set that the whitening was learned from. ValueError or FileNotFoundError when the folder or file
    holds no whole network or the name is unknown.
    """
    path = Path(path_or_name)
    if whitening_from is not None and not path.is_file():
        raise ValueError(
            f"network {path}: expected a checkpoint to choose a whitening of, got {whitening_from} for "
            "another network; leave it out"
        )
    if not path.exists():
        return build(_off_the_shelf(str(path_or_name)), weights or "pretrained")
    if weights is not None:
        raise ValueError(
            f"network {path}: expected no other weights for a saved network, got {weights}; leave them out"
        )
    if path.is_dir():
        return _load_folder(path)
    # Imported here: the format of the toolbox is built on this module.
    from cnnimretrieval.networks.reference import read_reference

    return read_reference(path, whitening_from)


def _load_folder(folder: Path) -> RetrievalNetwork:
    try:
        config = NetworkConfig.model_validate_json((folder / _CONFIG).read_bytes())
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"network {folder}: expected a folder with {_CONFIG}, got none; train a network into it first"
        ) from error
    except ValidationError as error:
        problem = error.errors()[0]
        raise ValueError(
            f"network {folder / _CONFIG}: expected a config, got {problem['loc']}: {problem['msg']}; "
            "write the network again"
        ) from error
    network = build(config, "random")
    state = read_state(folder / _WEIGHTS)
    try:
        network.load_state_dict(dict(state))
    except RuntimeError as error:
        raise ValueError(
            f"network {folder / _WEIGHTS}: expected the weights of {config.backbone}:{config.pooling}, "
            "got others; write the network again"
        ) from error
    with suppress(FileNotFoundError):
        network.whitening = load_whitening(folder / _WHITENING)
    with suppress(FileNotFoundError):
        network.multi_scale_whitening = load_whitening(folder / _MULTI_SCALE_WHITENING)
    for name, whitening in (
        (_WHITENING, network.whitening),
        (_MULTI_SCALE_WHITENING, network.multi_scale_whitening),
    ):
        if whitening is not None and len(whitening.mean) != network.dim:
            raise ValueError(
                f"network {folder / name}: expected a whitening of {network.dim}-D descriptors, got one of "
                f"{len(whitening.mean)}-D ones; write the network again"
            )
    return network


def _off_the_shelf(name: str) -> NetworkConfig:
    backbone, _, last = name.rpartition(":")
    pooling = last.removesuffix(_REGIONAL)
    if backbone and pooling in POOLINGS:
        regional = last.endswith(_REGIONAL)
        return NetworkConfig(backbone=check_backbone_name(backbone), pooling=pooling, regional=regional)
    if name in NETWORKS:
        raise ValueError(
            f"network: expected the file of the published network {name}, got its name; "
            f"download it and give its path, which ends in {NETWORKS[name].file}"
        )
    try:
        return NetworkConfig(backbone=check_backbone_name(name))
    except ValueError as error:
        raise ValueError(
            "network: expected a folder written by training, a checkpoint or BACKBONE[:POOLING], "
            f"got {name!r}; {error}"
        ) from error
