"""Everything that learning changes: what a checkpoint holds, and what is scored and handed out."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.training.learning.classes import Classes, all_that_learns, classes_of, learn_too
from cnnimretrieval.training.learning.context import Training
from cnnimretrieval.training.learning.optimiser import build_optimizer
from cnnimretrieval.training.safeguards.checkpoint import EpochLog, Stateful
from cnnimretrieval.training.safeguards.early_stopping import BestWeights, is_best


@dataclass(frozen=True, kw_only=True, eq=False)
class LearningState:
    """A network while it learns, with what moves and follows it.

    Attributes:
        network: which learns.
        optimizer: that moves it, and the weights of the classes.
        classes: that a loss over classes has, else None.
        scaler: of losses, where gradients in float16 would be lost else.
        average: of the weights over the latest steps, where the settings ask for it.
        best: weights, of the epoch with the best scores, where training may stop early.

    """

    network: RetrievalNetwork
    optimizer: Optimizer
    classes: Classes | None
    scaler: GradScaler | None
    average: AveragedModel | None
    best: BestWeights | None

    @property
    def parts(self) -> dict[str, Stateful]:
        """What a checkpoint holds of it, by name."""
        parts: dict[str, Stateful | None] = {
            "network": all_that_learns(self.network, self.classes),
            "optimizer": self.optimizer,
            "scaler": self.scaler,
            "average": self.average,
            "best": self.best,
        }
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def shown(self) -> RetrievalNetwork:
        """The network that is scored: the average where there is one."""
        averaged = self.network if self.average is None else self.average.module
        assert isinstance(averaged, RetrievalNetwork)
        return averaged

    def stepped(self) -> None:
        """Let the average follow a step."""
        if self.average is not None:
            self.average.update_parameters(self.network)

    def scored(self, logs: Sequence[EpochLog]) -> None:
        """Keep the weights of the last epoch if it is the best so far."""
        if self.best is not None and is_best(logs):
            self.best.keep(self.shown)

    def hand_out(self) -> None:
        """Give the network that learned the weights that training is to end with."""
        if self.average is not None:
            self.network.load_state_dict(self.shown.state_dict())
        if self.best is not None:
            self.best.give(self.network)


def start(training: Training) -> LearningState:
    """The state before the first step: the network on its device, its optimiser, and what follows them."""
    network, config = training.network, training.config
    if config.recompute and not network.trunk.layers:
        raise ValueError(
            f"train.loop.recompute: expected a backbone of layers in a row, got {network.trunk.name}; "
            "set train.loop.pictures_at_once to 1 instead"
        )
    # In the order in memory that convolutions like; kept inputs need the layers below to stay as they are.
    network.to(training.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    optimizer, classes = build_optimizer(network, config), classes_of(training)
    learn_too(optimizer, classes, config.class_loss.rate_factor)
    average = None
    if config.average_decay:
        follow = get_ema_multi_avg_fn(config.average_decay)  # type: ignore[no-untyped-call]
        average = AveragedModel(network, multi_avg_fn=follow)
    return LearningState(
        network=network,
        optimizer=optimizer,
        classes=classes,
        scaler=GradScaler(training.device.split(":")[0]) if config.precision == "float16" else None,
        average=average,
        best=None if config.patience is None else BestWeights(),
    )
