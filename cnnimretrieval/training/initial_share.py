"""How far the weights go back towards those that training started from (Wortsman et al., CVPR 2022)."""

import logging
from collections.abc import Callable
from typing import Literal

import torch
from torch import nn

from cnnimretrieval.networks.network import RetrievalNetwork

logger = logging.getLogger(__name__)

_SHARES = (0.0, 0.25, 0.5, 0.75)


def settle(
    tuned: RetrievalNetwork,
    initial: RetrievalNetwork,
    share: float | Literal["chosen"],
    score: Callable[[RetrievalNetwork], float],
) -> float:
    """Move the weights of `tuned` back, in place, by `share`, and return it.

    "chosen" tries several and takes that with the highest `score`, the smallest of equals.
    """
    weights = {name: value.clone() for name, value in tuned.state_dict().items()}
    if share != "chosen":
        move_back(tuned, weights, initial, share)
        return share
    found: dict[float, float] = {}
    for tried in _SHARES:
        move_back(tuned, weights, initial, tried)
        found[tried] = score(tuned)
    best = max(found, key=found.__getitem__)
    told = ", ".join(f"{tried:g}: {value:.4f}" for tried, value in found.items())
    logger.info("share of the initial weights: %g is taken, by mAP of %s", best, told)
    move_back(tuned, weights, initial, best)
    return best


def move_back(network: nn.Module, weights: dict[str, torch.Tensor], initial: nn.Module, share: float) -> None:
    """Set `network` to `weights`, but for this share of those of `initial`."""
    start = initial.state_dict()
    network.load_state_dict(
        {
            name: torch.lerp(value, start[name], share) if share and value.is_floating_point() else value
            for name, value in weights.items()
        }
    )
