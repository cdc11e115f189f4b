"""RetrievalNetwork: trunk, pooling and L2 norm, which turn images into descriptors; its folder on disk."""

import hashlib
from contextlib import suppress
from pathlib import Path

from jaxtyping import Float
from pydantic import Field, ValidationError, field_validator
from safetensors.torch import save_file
from torch import Tensor, nn

from cnnimretrieval.descriptors.whitening import Whitening, load_whitening, save_whitening
from cnnimretrieval.networks.backbones import Trunk, build_trunk, check_backbone_name
from cnnimretrieval.networks.pooling import POOLINGS, Gem, Mac, PoolingName, Spoc, build_pooling, l2_normalise
from cnnimretrieval.networks.weights import read_state
from sfm.settings import Settings
from sfm.store import atomic_path, write_json

_CONFIG = "network.json"
_WEIGHTS = "weights.safetensors"
_WHITENING = "whitening.safetensors"


class NetworkConfig(Settings):
    """What a retrieval network is made of."""

    backbone: str = Field(default="resnet18", description="a torchvision backbone, or timm:NAME")
    pooling: PoolingName = "gem"
    gem_p: float = Field(default=3.0, ge=1.0, description="the exponent that GeM starts from")

    @field_validator("backbone")
    @classmethod
    def _known(cls, name: str) -> str:
        return check_backbone_name(name)


class RetrievalNetwork(nn.Module):
    """Images to unit descriptors; `whitening`, once learned, is kept with it and applied by extraction."""

    def __init__(
        self, config: NetworkConfig, trunk: Trunk, pool: Mac | Spoc | Gem, whitening: Whitening | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.trunk = trunk
        self.pool = pool
        self.whitening = whitening

    @property
    def dim(self) -> int:
        """D, the length of a descriptor before whitening."""
        return self.trunk.out_channels

    @property
    def multi_scale_power(self) -> float:
        """The exponent of the mean over scales: GeM's p, else 1, as published (msp)."""
        return float(self.pool.power.item()) if isinstance(self.pool, Gem) else 1.0

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """Unit descriptors, float32, not whitened, of images normalised with the trunk's mean and std."""
        return l2_normalise(self.pool(self.trunk(images)).float())

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the config and all weights, without the whitening."""
        digest = hashlib.sha256(self.config.model_dump_json().encode())
        for key, value in sorted(self.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def build(config: NetworkConfig, weights: str = "pretrained", seed: int = 0) -> RetrievalNetwork:
    """A network without whitening, for evaluation; `weights` and the errors are those of `build_trunk`."""
    trunk = build_trunk(config.backbone, weights, seed)
    return RetrievalNetwork(config, trunk, build_pooling(config.pooling, config.gem_p)).eval()


def save(network: RetrievalNetwork, folder: Path) -> None:
    """Write `network` into `folder`; what else lies there stays.

    network.json is removed first and written last, so a folder that was left half-written does not load.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _CONFIG).unlink(missing_ok=True)
    with atomic_path(folder / _WEIGHTS) as unfinished:
        save_file({key: value.contiguous() for key, value in network.state_dict().items()}, unfinished)
    if network.whitening is None:
        (folder / _WHITENING).unlink(missing_ok=True)
    else:
        save_whitening(network.whitening, folder / _WHITENING)
    write_json(folder / _CONFIG, network.config.model_dump(mode="json"))


def load(path_or_name: str | Path, weights: str | None = None) -> RetrievalNetwork:
    """The network, for evaluation, in a folder that `save` wrote, or an off-the-shelf BACKBONE[:POOLING].

    `weights` is for off-the-shelf networks only: see `backbones.build_trunk`; None means "pretrained".
    ValueError or FileNotFoundError when the folder holds no whole network or the name is unknown.
    """
    folder = Path(path_or_name)
    if not folder.is_dir():
        return build(_off_the_shelf(str(path_or_name)), weights or "pretrained")
    if weights is not None:
        raise ValueError(
            f"network {folder}: expected no other weights for a saved network, got {weights}; leave them out"
        )
    return _load_folder(folder)


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
    return network


def _off_the_shelf(name: str) -> NetworkConfig:
    backbone, _, last = name.rpartition(":")
    if backbone and last in POOLINGS:
        return NetworkConfig(backbone=check_backbone_name(backbone), pooling=last)
    try:
        return NetworkConfig(backbone=check_backbone_name(name))
    except ValueError as error:
        raise ValueError(
            f"network: expected a folder written by training or BACKBONE[:POOLING], got {name!r}; {error}"
        ) from error
