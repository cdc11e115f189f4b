"""One step of learning: pictures through the network, loss, gradient, optimiser."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.optim import Optimizer

from cnnimretrieval.descriptors.tensors import normalise
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.networks.pooling import l2_normalise
from cnnimretrieval.training.batch_losses import BatchLossName, batch_loss
from cnnimretrieval.training.groups import LoadedGroup
from cnnimretrieval.training.losses import contrastive, triplet
from cnnimretrieval.training.memory import Memory
from cnnimretrieval.training.relations import Relations
from cnnimretrieval.training.settings import LoopConfig
from cnnimretrieval.training.tuples import Collection
from cnnimretrieval.whitening.apply import Whitening


@dataclass(frozen=True, kw_only=True, eq=False)
class Training:
    """What one training works with. `network` changes while it learns, the rest stays.

    With a `whitening`, negatives and loss see whitened descriptors: what the trunk learns then adds to what
    whitening does anyway.
    """

    network: RetrievalNetwork
    collection: Collection
    config: LoopConfig
    seed: int
    whitening: Whitening | None = None
    device: str = "cpu"
    workers: int = 0


class Learner:
    """Moves the weights of a training by one step at a time.

    Its memory, if the training has one, begins empty: a learner serves one epoch, so that an interrupted
    training goes on like an unbroken one.
    """

    def __init__(self, training: Training, optimizer: Optimizer) -> None:
        self._training = training
        self._optimizer = optimizer
        self._relations = Relations(training.collection.table)
        size = training.config.memory_size
        self._memory = Memory(size) if size else None

    def step(self, groups: Sequence[LoadedGroup]) -> float:
        """Learn from these groups together; returns the sum over them of their loss before the step."""
        self._optimizer.zero_grad()
        over_tuples = self._training.config.loss in ("contrastive", "triplet")
        total = self._tuples_backward(groups) if over_tuples else self._batch_backward(groups)
        self._optimizer.step()
        return total

    def _tuples_backward(self, groups: Sequence[LoadedGroup]) -> float:
        """Tuple by tuple, which needs the memory of one: their gradients add up."""
        pairs = sum(len(group.rows) - 1 for group in groups)
        divisor = pairs if self._training.config.gradient == "per_pair" else 1
        total = 0.0
        for group in groups:
            loss = tuple_loss(self._training, group.pictures)
            (loss / divisor).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total

    def _batch_backward(self, groups: Sequence[LoadedGroup]) -> float:
        rows = np.array([row for group in groups for row in group.rows], dtype=np.int64)
        pictures = [picture for group in groups for picture in group.pictures]
        vectors = describe_with_gradient(self._training, pictures)
        loss = self._batch_loss(vectors, rows)
        loss.backward()  # type: ignore[no-untyped-call]
        if self._memory is not None:
            self._memory.add(vectors, torch.from_numpy(rows))
        return float(loss.detach()) * len(groups)

    def _batch_loss(self, vectors: Float[Tensor, "b d"], rows: np.ndarray) -> Float[Tensor, ""]:
        config = self._training.config
        scores = vectors @ vectors.T
        matching, apart = self._relations.matching(rows, rows), self._relations.apart(rows, rows)
        if self._memory is not None and len(self._memory):
            # From earlier steps only images of other places: a positive seen with other weights is none.
            kept = self._memory.rows.numpy()
            scores = torch.cat([scores, self._memory.scores(vectors)], dim=1)
            matching = np.pad(matching, ((0, 0), (0, len(kept))))
            apart = np.concatenate([apart, self._relations.apart(rows, kept)], axis=1)
        positive, negative = (torch.from_numpy(mask).to(scores.device) for mask in (matching, apart))
        return batch_loss(cast(BatchLossName, config.loss), scores, positive, negative, config.batch_loss)


def tuple_loss(training: Training, pictures: Sequence[UInt8[Tensor, "3 _ _"]]) -> Float[Tensor, ""]:
    """Loss of one tuple; pictures of one size go through the network together, which changes nothing."""
    descriptors = describe_with_gradient(training, pictures)[None]
    function = contrastive if training.config.loss == "contrastive" else triplet
    return function(descriptors, training.config.margin).sum()


def describe_with_gradient(
    training: Training, pictures: Sequence[UInt8[Tensor, "3 _ _"]]
) -> Float[Tensor, "k d"]:
    """Unit descriptors as the loss sees them, in float32 whatever the precision of the activations."""
    trunk = training.network.trunk
    rows_of: dict[torch.Size, list[int]] = {}
    for row, picture in enumerate(pictures):
        rows_of.setdefault(picture.shape, []).append(row)
    described: list[Tensor] = [torch.empty(0)] * len(pictures)
    device_type = torch.device(training.device).type
    half = training.config.precision == "bfloat16"
    for rows in rows_of.values():
        levels = torch.stack([pictures[row] for row in rows]).to(training.device)
        images = normalise(levels, trunk.mean, trunk.std)
        with torch.autocast(device_type, torch.bfloat16, enabled=half):
            vectors = training.network(images.contiguous(memory_format=torch.channels_last))
        for row, vector in zip(rows, vectors.float(), strict=True):
            described[row] = vector
    stacked = torch.stack(described)
    return stacked if training.whitening is None else _whitened(stacked, training.whitening)


def _whitened(vectors: Float[Tensor, "k d"], whitening: Whitening) -> Float[Tensor, "k e"]:
    """`whitening.apply` with a gradient."""
    mean, projection = (torch.from_numpy(part).to(vectors) for part in (whitening.mean, whitening.projection))
    return l2_normalise((vectors - mean) @ projection.T)
