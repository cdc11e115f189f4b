"""Early stopping: which epoch was the best so far, whether to go on, and the weights of the best."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from cnnimretrieval.training.safeguards.checkpoint import EpochLog


def is_best(logs: Sequence[EpochLog]) -> bool:
    """Whether the last epoch was scored, and better than each before that learned."""
    scored = _scored(logs)
    return bool(logs) and logs[-1] in scored and _best(scored) == len(scored) - 1


def out_of_patience(logs: Sequence[EpochLog], patience: int | None) -> bool:
    """Whether so many scorings came after the best one, and none was better."""
    scored = _scored(logs)
    return patience is not None and len(scored) - 1 - _best(scored) >= patience


def _scored(logs: Sequence[EpochLog]) -> list[EpochLog]:
    return [log for log in logs if log.epoch > 0 and log.validation]


def _best(scored: Sequence[EpochLog]) -> int:
    """The first of equals, by what choices are made by, which stands first."""
    values = [next(iter(log.validation.values())) for log in scored]
    return values.index(max(values)) if values else 0


class BestWeights:
    """A copy of the weights of the best epoch, on the CPU."""

    def __init__(self) -> None:
        self._weights: dict[str, torch.Tensor] = {}

    def keep(self, network: nn.Module) -> None:
        """Copy the weights of `network` as they are."""
        self._weights = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}

    def give(self, network: nn.Module) -> None:
        """Put them into `network`, which stays as it is where none were kept."""
        if self._weights:
            network.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The weights, for a checkpoint."""
        return self._weights

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Keep these instead."""
        self._weights = dict(state)
