"""The optimiser of a training: which weights learn, how fast, and which of them decay."""

from typing import Any

import torch
from torch.optim import Optimizer

from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.training.settings import LoopConfig


def build_optimizer(network: RetrievalNetwork, config: LoopConfig) -> Optimizer:
    """Adam or SGD over the weights of the network, the lowest `frozen_share` of its trunk set to stay.

    Exponents of GeM learn faster and do not decay, as published; whatever else lies behind the trunk learns
    as the trunk does. A network without exponents has no group for them.
    """
    trunk = list(network.trunk.parameters())
    frozen = num_frozen(network, config)
    for number, weight in enumerate(trunk):
        weight.requires_grad_(number >= frozen)
    behind = [weight for name, weight in network.named_parameters() if not name.startswith("trunk.")]
    others = [weight for weight in behind if weight is not network.exponent]
    groups: list[dict[str, Any]] = [
        {"params": [*trunk[frozen:], *others], "weight_decay": config.weight_decay, "factor": 1.0}
    ]
    if network.exponent is not None:
        groups.append({"params": [network.exponent], "weight_decay": 0.0, "factor": config.gem_rate_factor})
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)
    return torch.optim.Adam(groups, lr=config.learning_rate)


def num_frozen(network: RetrievalNetwork, config: LoopConfig) -> int:
    """How many weight tensors of the trunk, the lowest, stay as they are."""
    return round(config.frozen_share * len(list(network.trunk.parameters())))


def set_rate(optimizer: Optimizer, config: LoopConfig, epoch: int) -> float:
    """Give every group its rate of this epoch, counted from 1; returns that of the trunk."""
    rate = config.rate(epoch)
    for group in optimizer.param_groups:
        group["lr"] = group["factor"] * rate
    return rate
