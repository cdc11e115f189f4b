"""Open a network: a folder of training or export, a checkpoint of the reference toolbox, or a name."""

from pathlib import Path

from cnnimretrieval.networks.backbones import check_backbone_name
from cnnimretrieval.networks.hub_folder import is_hub_folder, read_hub_folder
from cnnimretrieval.networks.model_folder import read_folder
from cnnimretrieval.networks.network import NetworkConfig, RetrievalNetwork, build
from cnnimretrieval.networks.pooling import POOLINGS
from cnnimretrieval.networks.reference import read_reference
from cnnimretrieval.networks.toolbox_files import NETWORKS
from cnnimretrieval.networks.trial import require_sound

# BACKBONE:POOLING-r pools regions, as in the published names.
_REGIONAL = "-r"


def load(
    path_or_name: str | Path, weights: str | None = None, whitening_from: str | None = None
) -> RetrievalNetwork:
    """The network MODEL, for evaluation.

    That is a folder that `save` or `save_hub_folder` wrote, a checkpoint of the reference toolbox (see
    `reference`), or an off-the-shelf BACKBONE[:POOLING], POOLING-r for regional pooling. `weights` is for
    off-the-shelf networks only: see `backbones.build_trunk`; None means "pretrained". `whitening_from` is for
    checkpoints only: the data set that the whitening was learned from. ValueError or FileNotFoundError when
    the folder or file holds no whole network, the name is unknown, or what was read describes nothing (see
    `trial`).
    """
    path = Path(path_or_name)
    if whitening_from is not None and not path.is_file():
        raise ValueError(
            f"network {path}: expected a checkpoint to choose a whitening of, got {whitening_from} for "
            "another network; leave it out"
        )
    if not path.exists():
        network = build(_off_the_shelf(str(path_or_name)), weights or "pretrained")
        return require_sound(network, f"{path_or_name}, {weights}" if weights else str(path_or_name))
    if weights is not None:
        raise ValueError(
            f"network {path}: expected no other weights for a saved network, got {weights}; leave them out"
        )
    if path.is_dir():
        read = read_hub_folder if is_hub_folder(path) else read_folder
        return require_sound(read(path), str(path))
    return require_sound(read_reference(path, whitening_from), str(path))


def _off_the_shelf(name: str) -> NetworkConfig:
    backbone, _, last = name.rpartition(":")
    pooling = last.removesuffix(_REGIONAL)
    if backbone and pooling in POOLINGS:
        regional = last.endswith(_REGIONAL)
        values = {"backbone": check_backbone_name(backbone), "pooling": pooling, "regional": regional}
        return NetworkConfig.model_validate(values)
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
