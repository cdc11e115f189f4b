"""A network as a folder of the kind that model hubs hold: config.json, model.safetensors and README.md.

All tensors, the whitenings among them, lie in the one file; `networks.open.load` reads the folder again.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file

from cnnimretrieval.networks.network import NetworkConfig, RetrievalNetwork, build
from cnnimretrieval.networks.tensor_files import State, read_state
from cnnimretrieval.networks.weights import fitting
from cnnimretrieval.whitening.apply import Kind, Whitening
from groundwork.files import atomic_path, read_json, write_json
from groundwork.settings import Settings

CONFIG, TENSORS, CARD = "config.json", "model.safetensors", "README.md"
_NETWORK = "network."
_WHITENINGS = ("whitening", "multi_scale_whitening")
_REMEDY = "export the network again"


class WhiteningFacts(Settings):
    """What a whitening is, beside its arrays."""

    kind: Kind
    note: str


class HubConfig(Settings):
    """The content of config.json; hubs tell models apart by `model_type`."""

    model_type: Literal["cnnimretrieval"] = "cnnimretrieval"
    format_version: Literal[1] = 1
    architectures: tuple[str, ...] = (RetrievalNetwork.__name__,)
    network: NetworkConfig
    descriptor_size: int
    whitening: WhiteningFacts | None = None
    multi_scale_whitening: WhiteningFacts | None = None


_MODEL_TYPE = HubConfig.model_fields["model_type"].default


def save_hub_folder(network: RetrievalNetwork, folder: Path, card: str) -> None:
    """Write `network` with its whitenings and `card`, the text of README.md, into `folder`.

    config.json is removed first and written last, so a folder that was left half-written does not load.
    ValueError when the folder holds a network of training, which is kept as it is.
    """
    if (folder / "network.json").exists():
        raise ValueError(
            f"export {folder}: expected a folder of its own, got one that training wrote; take another"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    tensors = {f"{_NETWORK}{key}": value.detach().cpu() for key, value in network.state_dict().items()}
    facts: dict[str, WhiteningFacts] = {}
    for name in _WHITENINGS:
        whitening: Whitening | None = getattr(network, name)
        if whitening is not None:
            facts[name] = WhiteningFacts(kind=whitening.kind, note=whitening.note)
            tensors[f"{name}.mean"] = torch.from_numpy(whitening.mean)
            tensors[f"{name}.projection"] = torch.from_numpy(whitening.projection)
    with atomic_path(folder / TENSORS) as unfinished:
        # Libraries of hubs refuse a file that does not say for which framework it is.
        save_file({key: value.contiguous() for key, value in tensors.items()}, unfinished, {"format": "pt"})
    with atomic_path(folder / CARD) as unfinished:
        unfinished.write_text(card, encoding="utf-8")
    whitened = network.whitening.dim if network.whitening is not None else network.dim
    config = HubConfig(
        network=network.config,
        descriptor_size=whitened,
        whitening=facts.get("whitening"),
        multi_scale_whitening=facts.get("multi_scale_whitening"),
    )
    write_json(folder / CONFIG, config.model_dump(mode="json", exclude_none=True))


def is_hub_folder(folder: Path) -> bool:
    """Whether a folder has what `save_hub_folder` writes and is not one of training."""
    return (folder / CONFIG).is_file() and not (folder / "network.json").exists()


def read_hub_folder(folder: Path) -> RetrievalNetwork:
    """The network that `save_hub_folder` wrote into `folder`, for evaluation.

    ValueError or FileNotFoundError naming the file that is missing, damaged or of another network.
    """
    config, path = _read_config(folder / CONFIG), folder / TENSORS
    state = read_state(path, "network")
    network = build(config.network, "random")
    own = {key.removeprefix(_NETWORK): value for key, value in state.items() if key.startswith(_NETWORK)}
    named = f"{config.network.backbone}:{config.network.pooling}"
    network.load_state_dict(fitting(own, network, what=f"network {path}", of=named, remedy=_REMEDY))
    network.whitening = _whitening(state, "whitening", config.whitening, network.dim, path)
    network.multi_scale_whitening = _whitening(
        state, "multi_scale_whitening", config.multi_scale_whitening, network.dim, path
    )
    return network


def _read_config(path: Path) -> HubConfig:
    content = read_json(path)
    kind = content.get("model_type") if isinstance(content, Mapping) else None
    if kind != _MODEL_TYPE:
        raise ValueError(
            f"network {path}: expected model_type {_MODEL_TYPE!r}, got {kind!r}; give a folder that "
            "`export --to huggingface` wrote"
        )
    return HubConfig.checked(content, f"network {path}", "a config of this version", _REMEDY)


def _whitening(
    state: State, name: str, facts: WhiteningFacts | None, dim: int, path: Path
) -> Whitening | None:
    if facts is None:
        return None
    arrays = {part: state.get(f"{name}.{part}") for part in ("mean", "projection")}
    mean, projection = arrays["mean"], arrays["projection"]
    if mean is None or projection is None or mean.shape != (dim,):
        got = {part: None if array is None else tuple(array.shape) for part, array in arrays.items()}
        raise ValueError(
            f"network {path}: expected {name}.mean ({dim},) and {name}.projection, got {got}; {_REMEDY}"
        )
    return Whitening(mean=mean.numpy(), projection=projection.numpy(), kind=facts.kind, note=facts.note)
