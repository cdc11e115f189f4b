"""One step of learning: pictures through the network, loss, gradient, optimiser."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.optim import Optimizer

from cnnimretrieval.descriptors.halves import above, below, stacked
from cnnimretrieval.networks.pooling import l2_normalise
from cnnimretrieval.training.batches import Batch
from cnnimretrieval.training.context import Training
from cnnimretrieval.training.cross_batch_memory import CrossBatchMemory
from cnnimretrieval.training.divergence import check_descriptors, check_loss, check_tensors
from cnnimretrieval.training.losses import LOSSES, BatchLoss, TupleLoss, mean_over_anchors
from cnnimretrieval.training.pair_masks import PairMasks
from cnnimretrieval.whitening.apply import Whitening

# What the network is given: levels, or activations of the layers that stay as they are.
Pictures = Sequence[Shaped[Tensor, "_ _ _"]]


class Learner:
    """Moves the weights of a training by one step at a time; `steps` counts them.

    Its memory, if the training has one, begins empty: a learner serves one epoch, so that an interrupted
    training goes on like an unbroken one.
    """

    def __init__(self, training: Training, optimizer: Optimizer) -> None:
        self.steps = 0
        self._training = training
        self._optimizer = optimizer
        self._masks = PairMasks(training.collection.table)
        size = training.config.memory_size
        self._memory = CrossBatchMemory(size) if size else None
        self._latest: Batch = ()

    def step(self, batch: Batch) -> float:
        """Learn from a batch; returns the sum over its examples of their loss before the step.

        Diverged, at once, when loss, gradients or weights are not finite.
        """
        self.steps, self._latest = self.steps + 1, batch
        self._optimizer.zero_grad()
        loss = LOSSES[self._training.config.loss]
        total = self._tuples(loss, batch) if isinstance(loss, TupleLoss) else self._batch(loss, batch)
        weights = dict(self._training.network.named_parameters())
        gradients = {name: weight.grad for name, weight in weights.items() if weight.grad is not None}
        check_tensors("gradient", gradients, total, self._queries(batch))
        self._optimizer.step()
        check_tensors("weight", weights, total, self._queries(batch))
        return total

    def _tuples(self, loss: TupleLoss, batch: Batch) -> float:
        """Tuple by tuple, which needs the memory of one: their gradients add up."""
        config = self._training.config
        num_pairs = sum(len(example.rows) - 1 for example in batch)
        divisor = num_pairs if config.gradient == "per_pair" else 1
        total = 0.0
        for example in batch:
            descriptors = describe_with_gradient(self._training, example.pictures)
            value = loss.of(descriptors[None], config.margin).sum()
            check_loss(float(value.detach()), self._queries((example,)))
            (value / divisor).backward()  # type: ignore[no-untyped-call]
            total += float(value.detach())
        return total

    def _batch(self, loss: BatchLoss, batch: Batch) -> float:
        """All images of the batch with each other, and with those that the memory keeps of earlier steps."""
        rows = np.array([row for example in batch for row in example.rows], dtype=np.int64)
        descriptors = describe_with_gradient(self._training, _pictures(batch))
        scores = descriptors @ descriptors.T
        matching, apart = self._masks.matching(rows, rows), self._masks.apart(rows, rows)
        if self._memory is not None and len(self._memory):
            # From earlier steps only images of other places: a positive seen with other weights is none.
            kept = self._memory.rows.numpy()
            scores = torch.cat([scores, self._memory.scores(descriptors)], dim=1)
            matching = np.pad(matching, ((0, 0), (0, len(kept))))
            apart = np.concatenate([apart, self._masks.apart(rows, kept)], axis=1)
        positive, negative = (torch.from_numpy(mask).to(scores.device) for mask in (matching, apart))
        value = mean_over_anchors(loss, scores, positive, negative, self._training.config.batch_loss)
        check_loss(float(value.detach()), self._queries(batch))
        value.backward()  # type: ignore[no-untyped-call]
        if self._memory is not None:
            self._memory.add(descriptors, torch.from_numpy(rows))
        return float(value.detach()) * len(batch)

    def check(self) -> None:
        """Diverged unless the network, as it is after the last step, tells the photos of that step apart."""
        pictures = _pictures(self._latest)
        if pictures:
            with torch.no_grad():
                descriptors = describe_with_gradient(self._training, pictures).cpu().numpy()
            names = self._names([row for example in self._latest for row in example.rows])
            differ = any(not torch.equal(pictures[0], picture) for picture in pictures)
            check_descriptors(descriptors, names, differ=differ)

    def _queries(self, batch: Batch) -> list[str]:
        return self._names([example.rows[0] for example in batch])

    def _names(self, rows: Sequence[int]) -> list[str]:
        return [self._training.collection.table.names[row] for row in rows]


def describe_with_gradient(training: Training, pictures: Pictures) -> Float[Tensor, "k d"]:
    """Unit descriptors as the loss sees them, in float32 whatever the precision of the activations.

    Pictures of one size go through the network together, which changes nothing.
    """
    rows_of: dict[torch.Size, list[int]] = {}
    for row, picture in enumerate(pictures):
        rows_of.setdefault(picture.shape, []).append(row)
    described: list[Tensor] = [torch.empty(0)] * len(pictures)
    num_layers = training.inputs.num_layers
    for rows in rows_of.values():
        (given,) = stacked([(pictures[row],) for row in rows])
        given = given.to(training.device)
        if num_layers == 0:
            (given,) = below(training.network, 0, given, training.look)
        vectors = above(training.network, num_layers, given, training.look)
        for row, vector in zip(rows, vectors.float(), strict=True):
            described[row] = vector
    vectors = torch.stack(described)
    return vectors if training.whitening is None else _whitened(vectors, training.whitening)


def _whitened(vectors: Float[Tensor, "k d"], whitening: Whitening) -> Float[Tensor, "k e"]:
    """`whitening.apply` with a gradient."""
    mean, projection = (torch.from_numpy(part).to(vectors) for part in (whitening.mean, whitening.projection))
    return l2_normalise((vectors - mean) @ projection.T)


def _pictures(batch: Batch) -> list[Shaped[Tensor, "_ _ _"]]:
    return [picture for example in batch for picture in example.pictures]
