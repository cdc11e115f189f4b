"""A network as a folder: network.json, its weights and its whitenings."""

from pathlib import Path

from safetensors.torch import save_file

from cnnimretrieval.networks.network import NetworkConfig, RetrievalNetwork, build
from cnnimretrieval.networks.tensor_files import read_state
from cnnimretrieval.networks.weights import fitting
from cnnimretrieval.whitening.apply import Whitening, load_whitening, save_whitening
from groundwork.files import atomic_path, write_json

_CONFIG = "network.json"
_WEIGHTS = "weights.safetensors"
_WHITENING = "whitening.safetensors"
_MULTI_SCALE_WHITENING = "whitening_multi_scale.safetensors"


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


def read_folder(folder: Path) -> RetrievalNetwork:
    """The network that `save` wrote into `folder`, for evaluation.

    FileNotFoundError when there is none, ValueError naming the file that is damaged or of another network.
    """
    config, remedy = _read_config(folder / _CONFIG), "write the network again"
    network = build(config, "random")
    what, named = f"network {folder / _WEIGHTS}", f"{config.backbone}:{config.pooling}"
    state = read_state(folder / _WEIGHTS, "network")
    network.load_state_dict(fitting(state, network, what=what, of=named, remedy=remedy))
    network.whitening = _read_whitening(folder / _WHITENING, network.dim)
    network.multi_scale_whitening = _read_whitening(folder / _MULTI_SCALE_WHITENING, network.dim)
    return network


def _read_config(path: Path) -> NetworkConfig:
    if not path.is_file():
        raise FileNotFoundError(
            f"network {path.parent}: expected a folder with {path.name}, got none; train a network into it "
            "first"
        )
    return NetworkConfig.load(
        path, thing="network", expected="a network's config of this version", remedy="write the network again"
    )


def _read_whitening(path: Path, dim: int) -> Whitening | None:
    """The whitening in a file, None where there is none; ValueError unless it is of `dim`-D descriptors."""
    if not path.exists():
        return None
    whitening = load_whitening(path)
    if len(whitening.mean) != dim:
        raise ValueError(
            f"network {path}: expected a whitening of {dim}-D descriptors, got one of "
            f"{len(whitening.mean)}-D ones; write the network again"
        )
    return whitening
