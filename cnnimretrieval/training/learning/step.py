"""One step of learning: pictures through the network, loss, gradient, optimiser."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer

from cnnimretrieval.descriptors.extract import first_words
from cnnimretrieval.distributed import num_ranks, of_all, sum_gradients
from cnnimretrieval.networks.trunk_stages import watch
from cnnimretrieval.training.learning.auxiliary import add_gradient_beside
from cnnimretrieval.training.learning.batches import Batch
from cnnimretrieval.training.learning.classes import Classes
from cnnimretrieval.training.learning.context import Training
from cnnimretrieval.training.learning.gradients import (
    add_gradient,
    at_once,
    describe_with_gradient,
)
from cnnimretrieval.training.losses.cross_batch_memory import CrossBatchMemory
from cnnimretrieval.training.losses.pair_masks import PairMasks
from cnnimretrieval.training.losses.registry import LOSSES, BatchLoss, TupleLoss, mean_over_anchors
from cnnimretrieval.training.safeguards.divergence import (
    check_descriptors,
    check_loss,
    check_scale,
    check_tensors,
)
from cnnimretrieval.training.safeguards.out_of_memory import Changes, OutOfMemory, settings_that_fit


class Learner:
    """Moves the weights of a training by one step at a time; `steps` counts them.

    Its memory, if the training has one, begins empty: a learner serves one epoch.
    """

    def __init__(
        self,
        training: Training,
        optimizer: Optimizer,
        classes: Classes | None = None,
        scaler: GradScaler | None = None,
    ) -> None:
        self.steps = 0
        # Off, it gives losses and steps as they are.
        self._scaler = scaler or GradScaler(enabled=False)
        self._classes = classes
        self._training = training
        self._optimizer = optimizer
        self._masks = PairMasks(training.collection.table)
        size = training.config.memory_size
        self._memory = CrossBatchMemory(size) if size else None
        self._latest: Batch = ()
        if training.tracks is not None:
            watch(training.network.trunk, training.tracks.stage)

    def step(self, batch: Batch) -> float:
        """Learn from a batch; returns the sum over its examples of their loss before the step.

        Diverged, at once, when loss, gradients or weights are not finite; OutOfMemory of a GPU.
        """
        self.steps, self._latest = self.steps + 1, batch
        try:
            total = self._add_gradients(batch)
            with self._training.clock.part("move"):
                self._move(total, batch)
            return total
        except torch.OutOfMemoryError as error:
            said = first_words(error)
        # What the step had made is let go of only now, with the traceback of the error.
        raise self._out_of_memory(batch, said)

    def _add_gradients(self, batch: Batch) -> float:
        """Give the weights the gradient of a batch in place of what they had; returns what `step` does."""
        self._optimizer.zero_grad()
        loss = LOSSES[self._training.config.loss]
        if isinstance(loss, TupleLoss):
            total = self._tuples(loss, batch)
        elif isinstance(loss, BatchLoss):
            total = self._batch(loss, batch)
        else:
            total = self._of_classes(batch)
        beside = add_gradient_beside(self._training, batch, self._scaler.scale)
        check_loss(beside, self._queries(batch))
        return total + beside

    def _out_of_memory(self, batch: Batch, said: str) -> OutOfMemory:
        by_tuple = isinstance(LOSSES[self._training.config.loss], TupleLoss)
        pictures = max(len(_pictures(part)) for part in (self._parts(batch) if by_tuple else (batch,)))
        pictures = min(pictures, at_once(self._training) or pictures)
        if num_ranks() == 1:
            advice = settings_that_fit(pictures, partial(self._would_fit, batch))
        else:  # the others wait elsewhere, and would take no part in trying
            advice = "set train.loop.pictures_at_once to less, or train.loop.recompute=true"
        together = f"{pictures} pictures at once on {self._training.device}"
        return OutOfMemory(f"expected memory for {together}, got '{said}'; {advice}")

    def _would_fit(self, batch: Batch, changes: Changes) -> bool:
        """Whether a step with other settings would; its gradients are made, and nothing is moved."""
        config = self._training.config.model_copy(update=dict(changes))
        other = Learner(replace(self._training, config=config), self._optimizer, self._classes, self._scaler)
        try:
            other._add_gradients(batch)
        except torch.OutOfMemoryError:
            return False
        return True

    def _move(self, total: float, batch: Batch) -> None:
        """Take the step that the gradients of all ranks ask for, if it is sound."""
        sum_gradients(self._training.network)
        weights = dict(self._training.network.named_parameters())
        if self._scaler.is_enabled():
            # Which leaves out a step whose gradients do not fit, and scales less from then on.
            self._scaler.step(self._optimizer)
            self._scaler.update()
            check_scale(self._scaler.get_scale(), total, self._queries(batch))
        else:
            gradients = {name: weight.grad for name, weight in weights.items() if weight.grad is not None}
            check_tensors("gradient", gradients, total, self._queries(batch))
            self._optimizer.step()
        check_tensors("weight", weights, total, self._queries(batch))

    def _tuples(self, loss: TupleLoss, batch: Batch) -> float:
        """As many tuples together as may be at once, at least one: their gradients add up."""
        config = self._training.config
        num_pairs = sum(len(example.rows) - 1 for example in batch)
        divisor = num_pairs if config.gradient == "per_pair" else 1
        total = 0.0
        for examples in self._parts(batch):
            sizes = [len(example.rows) for example in examples]

            def per_tuple(descriptors: Tensor, sizes: Sequence[int] = sizes) -> Tensor:
                tuples = torch.split(descriptors, list(sizes))
                return torch.stack([loss.of(one[None], config.margin).sum() for one in tuples])

            values = add_gradient(self._training, _pictures(examples), per_tuple, divisor, self._scaler.scale)
            for value, example in zip(values.tolist(), examples, strict=True):
                check_loss(value, self._queries((example,)))
                total += value
        return total

    def _parts(self, batch: Batch) -> Iterator[Batch]:
        """The tuples of a batch, as many at a time as go through the network together on all ranks.

        Unless the settings say, one, which needs the memory of one; or all, where the lowest layers stay as
        they are: a second way through the others costs what it saves, the way back of what no loss moves.
        """
        most, ranks = self._training.config.pictures_at_once, num_ranks()
        if most is None:
            size = len(batch) if self._training.inputs.num_layers else ranks
            yield from (batch[start : start + size] for start in range(0, len(batch), size))
            return
        together: Batch = ()
        for example in batch:
            num_pictures = sum(len(one.rows) for one in (*together, example))
            if together and num_pictures > most * ranks:
                yield together
                together = ()
            together = (*together, example)
        yield together

    def _batch(self, loss: BatchLoss, batch: Batch) -> float:
        """All images of the batch with each other, and with those that the memory keeps of earlier steps."""
        rows = np.array([row for example in batch for row in example.rows], dtype=np.int64)
        memory, masks = self._memory, self._masks

        def value(descriptors: Tensor) -> Tensor:
            scores = descriptors @ descriptors.T
            matching, apart = masks.matching(rows, rows), masks.apart(rows, rows)
            if memory is not None and len(memory):
                # From earlier steps only images of other places: a positive seen with other weights is none.
                kept = memory.rows.numpy()
                scores = torch.cat([scores, memory.scores(descriptors)], dim=1)
                matching = np.pad(matching, ((0, 0), (0, len(kept))))
                apart = np.concatenate([apart, masks.apart(rows, kept)], axis=1)
            positive, negative = (torch.from_numpy(mask).to(scores.device) for mask in (matching, apart))
            config = self._training.config.batch_loss
            return mean_over_anchors(loss, scores, positive, negative, config)

        seen: list[Tensor] = []

        def values(descriptors: Tensor) -> Tensor:
            seen.append(descriptors.detach())
            return value(descriptors)[None]

        found = float(add_gradient(self._training, _pictures(batch), values, scaled=self._scaler.scale))
        check_loss(found, self._queries(batch))
        if memory is not None:
            memory.add(seen[0], torch.from_numpy(rows))
        return found * len(batch)

    def _of_classes(self, batch: Batch) -> float:
        """All images of the batch that have a class with the weights of the classes."""
        classes = self._classes
        assert classes is not None, "a loss over classes has classes"
        labels = classes.labels[[row for example in batch for row in example.rows]].to(self._training.device)

        def values(descriptors: Tensor) -> Tensor:
            losses = classes.head(descriptors[labels >= 0], labels[labels >= 0], classes.competes)
            mean: Tensor = losses.sum()[None] / max(len(losses), 1)
            return mean

        found = float(add_gradient(self._training, _pictures(batch), values, scaled=self._scaler.scale))
        check_loss(found, self._queries(batch))
        return found * len(batch)

    def check(self) -> None:
        """Diverged unless the network, as it is after the last step, tells the photos of that step apart."""
        pictures = _pictures(self._latest)
        if pictures:
            with torch.no_grad():
                descriptors = describe_with_gradient(self._training, pictures).cpu().numpy()
            names = self._names([row for example in self._latest for row in example.rows])
            own = [picture for picture in pictures if picture is not None]
            differ = any(of_all(any(not torch.equal(own[0], picture) for picture in own)))
            check_descriptors(descriptors, names, differ=differ)

    def state_dict(self) -> dict[str, Any]:
        """What the next step hangs on besides weights and optimiser, for a checkpoint inside an epoch."""
        memory = None if self._memory is None else self._memory.state_dict()
        return {"steps": self.steps, "memory": memory}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` told."""
        self.steps = state["steps"]
        if self._memory is not None:
            self._memory.load_state_dict(state["memory"], self._training.device)

    def _queries(self, batch: Batch) -> list[str]:
        return self._names([example.rows[0] for example in batch])

    def _names(self, rows: Sequence[int]) -> list[str]:
        return [self._training.collection.table.names[row] for row in rows]


def _pictures(batch: Batch) -> list[Shaped[Tensor, "_ _ _"] | None]:
    return [picture for example in batch for picture in example.pictures]
