"""The state of a training between two epochs: enough to go on as if it had never stopped."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import nn
from torch.optim import Optimizer

from groundwork.files import atomic_path
from groundwork.settings import Values

_VERSION = 1


class EpochLog(Values):
    """What one epoch did; `validation` has the scores on the held-out places after it."""

    epoch: int
    loss: float | None = None
    negative_distance: float | None = None
    missing_negatives: int = 0
    learning_rate: float | None = None
    seconds: float = 0.0
    validation: dict[str, float] = Field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a training has come: one log per finished epoch, that of the initial network first."""

    logs: tuple[EpochLog, ...]

    @property
    def epoch(self) -> int:
        """Number of the last finished epoch; -1 before the initial network was scored."""
        return self.logs[-1].epoch if self.logs else -1


def save_checkpoint(
    path: Path, key: str, network: nn.Module, optimizer: Optimizer, progress: Progress
) -> None:
    """Write everything that the next epoch depends on, whole or not at all.

    No random state is kept: every epoch draws from a generator of its own, seeded by run and epoch.
    """
    state = {
        "version": _VERSION,
        "key": key,
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "logs": [log.model_dump(mode="json") for log in progress.logs],
    }
    with atomic_path(path) as unfinished:
        torch.save(state, unfinished)


def load_checkpoint(
    path: Path, key: str, network: nn.Module, optimizer: Optimizer, *, most_epochs: int
) -> Progress:
    """Put the state in `path` into network and optimizer; no progress when none was saved with this key.

    Neither when it is of more epochs than `most_epochs`: there is no way back from it.
    """
    if not path.is_file():
        return Progress(logs=())
    state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    if state["version"] != _VERSION or state["key"] != key:
        return Progress(logs=())
    progress = Progress(logs=tuple(EpochLog.model_validate(log) for log in state["logs"]))
    if progress.epoch > most_epochs:
        return Progress(logs=())
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    return progress
