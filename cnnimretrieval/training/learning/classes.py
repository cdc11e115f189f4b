"""Clusters as the classes of a training: which class each image has, and the weights of the classes."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from cnnimretrieval.training.learning.context import Training
from cnnimretrieval.training.local.supervision import cluster_classes
from cnnimretrieval.training.losses.margin_heads import MarginHead
from cnnimretrieval.training.losses.registry import LOSSES, ClassLoss
from cnnimretrieval.whitening.apply import apply as apply_whitening


@dataclass(frozen=True, kw_only=True, eq=False)
class Classes:
    """The classes of the training places, which nobody needs after the training.

    Attributes:
        head: their weights, which learn.
        labels: of each row of the pair table, -1 for none.
        competes: classes that surely show different things.

    """

    head: MarginHead
    labels: Int[Tensor, " n"]
    competes: Bool[Tensor, "c c"]


def classes_of(training: Training) -> Classes | None:
    """The classes of a training whose loss is over classes, None for any other.

    Weights begin as the mean descriptors of the classes where descriptors of the collection are at hand, else
    by chance.
    """
    loss, config = LOSSES[training.config.loss], training.config
    if not isinstance(loss, ClassLoss):
        return None
    table = training.collection.table
    labels, competes = cluster_classes(table)
    if len(competes) < 2 or not competes.any():
        raise ValueError(
            f"training: expected at least 2 training places to tell apart with {config.loss}, got one; "
            "add photos of other places, or choose a loss over tuples"
        )
    whitening = training.whitening
    dim = training.network.dim if whitening is None else whitening.dim
    head = MarginHead(loss.head, dim, len(competes), config.class_loss, training.seed)
    if training.descriptions is not None:
        vectors = training.descriptions.database(training.network)
        if whitening is not None:
            vectors = apply_whitening(whitening, vectors)
        known = labels >= 0
        means = torch.zeros(len(competes), dim).index_add(
            0, torch.from_numpy(labels[known]), torch.from_numpy(vectors[known].copy())
        )
        # Sub-centres begin apart, or they would stay together.
        with torch.no_grad():
            head.weight.mul_(0.1).add_(functional.normalize(means, dim=1)[:, None])
    return Classes(
        head=head.to(training.device),
        labels=torch.from_numpy(labels),
        competes=torch.from_numpy(competes).to(training.device),
    )


def learn_too(optimizer: Optimizer, classes: Classes | None, rate_factor: float) -> None:
    """Let the weights of the classes learn, so many times as fast as the trunk."""
    if classes is not None:
        learned = [weight for weight in classes.head.parameters() if weight.requires_grad]
        optimizer.add_param_group({"params": learned, "weight_decay": 0.0, "factor": rate_factor})


def all_that_learns(network: nn.Module, classes: Classes | None) -> nn.Module:
    """What a checkpoint has to hold: the network, with the weights of the classes where there are some."""
    if classes is None:
        return network
    return nn.ModuleDict({"network": network, "classes": classes.head})
