"""The optimiser of a training: which weights learn, how fast, and which of them decay."""

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.training.settings.loop_config import LoopConfig

# How much faster exponents of GeM learn than weights, as in the reference toolbox.
_SHARED_EXPONENT_FACTOR, _CHANNEL_EXPONENTS_FACTOR = 10.0, 100.0


def build_optimizer(network: RetrievalNetwork, config: LoopConfig) -> Optimizer:
    """Adam or SGD over the weights of the network, the lowest `frozen_share` of its trunk set to stay.

    Exponents of GeM learn faster and do not decay, as published; whatever else lies behind the trunk learns
    as the trunk does. A network without exponents has no group for them.
    """
    trunk = list(network.trunk.parameters())
    frozen = _num_frozen(network, config)
    for number, weight in enumerate(trunk):
        weight.requires_grad_(number >= frozen)
    behind = [weight for name, weight in network.named_parameters() if not name.startswith("trunk.")]
    others = [weight for weight in behind if weight is not network.exponent]
    groups: list[dict[str, Any]] = [
        {"params": weights, "weight_decay": config.weight_decay, "factor": factor}
        for weights, factor in _by_rate(network, trunk[frozen:], config.lowest_rate_factor)
    ]
    groups[-1]["params"] += others
    if network.exponent is not None:
        factor = config.gem_rate_factor
        if factor is None:
            factor = _SHARED_EXPONENT_FACTOR if network.exponent.numel() == 1 else _CHANNEL_EXPONENTS_FACTOR
        groups.append({"params": [network.exponent], "weight_decay": 0.0, "factor": factor})
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)
    return torch.optim.Adam(groups, lr=config.learning_rate)


def frozen_layers(network: RetrievalNetwork, config: LoopConfig) -> int:
    """How many layers of the trunk, the lowest, learn nothing: what they make of a photo stays."""
    return network.trunk.layers_of(_num_frozen(network, config))


def _num_frozen(network: RetrievalNetwork, config: LoopConfig) -> int:
    """How many weight tensors of the trunk, the lowest, stay as they are."""
    return round(config.frozen_share * len(list(network.trunk.parameters())))


def _by_rate(
    network: RetrievalNetwork, learning: list[nn.Parameter], lowest: float
) -> list[tuple[list[nn.Parameter], float]]:
    """The weights of the trunk that learn, lowest first, with their share of its rate; the last one's is 1.

    From layer to layer, counted over the whole trunk, the rate grows by the same factor.
    """
    if lowest == 1.0:
        return [(learning, 1.0)]
    rows = network.trunk.layers or tuple(network.trunk.features.children())
    layers = [list(layer.parameters()) for layer in rows if any(True for _ in layer.parameters())]
    stays = {id(weight) for weight in network.trunk.parameters()} - {id(weight) for weight in learning}
    shares = [lowest ** (1.0 - number / max(1, len(layers) - 1)) for number in range(len(layers))]
    found = [
        ([weight for weight in layer if id(weight) not in stays], share)
        for layer, share in zip(layers, [*shares[:-1], 1.0], strict=True)
    ]
    return [(weights, share) for weights, share in found if weights]


def set_rate(optimizer: Optimizer, config: LoopConfig, epoch: int, steps: int = 0) -> float:
    """Give every group its rate in this epoch, counted from 1, after so many steps; returns the trunk's."""
    rate = config.rate(epoch, steps)
    for group in optimizer.param_groups:
        group["lr"] = group["factor"] * rate
    return rate
