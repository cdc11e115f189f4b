"""Losses beside that of the examples, of what each brings for them: a teacher's photos, points of tracks."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from cnnimretrieval.distributed import of_all
from cnnimretrieval.training.auxiliary_losses.tracks import track_loss
from cnnimretrieval.training.learning.batches import Batch
from cnnimretrieval.training.learning.context import Training
from cnnimretrieval.training.learning.gradients import add_gradient, add_gradient_of_maps, as_seen

Scaled = Callable[[Tensor], Tensor]


def add_gradient_beside(training: Training, batch: Batch, scaled: Scaled) -> float:
    """The sum of these losses over a batch, 0 where there are none; their scaled gradient is added."""
    return _distilled(training, batch, scaled) + _tracked(training, batch, scaled)


def _distilled(training: Training, batch: Batch, scaled: Scaled) -> float:
    """The teacher's photos, towards what it makes of them."""
    targets = [example.targets for example in batch if example.targets is not None]
    if not targets:
        return 0.0
    vectors = torch.from_numpy(np.concatenate(targets)).to(training.device)
    expected, weight = as_seen(training, vectors), training.config.distillation.weight

    def values(descriptors: Tensor) -> Tensor:
        return weight * (descriptors - expected).square().sum(dim=1)

    pictures = [picture for example in batch for picture in example.taught]
    return float(add_gradient(training, pictures, values, scaled=scaled).sum())


def _tracked(training: Training, batch: Batch, scaled: Scaled) -> float:
    """Queries and positives as they are, where both see the same points."""
    tracks = training.tracks
    if tracks is None:
        return 0.0
    pairs = [(one.pair, torch.from_numpy(one.xy).float()) for one in batch if one.xy is not None]
    weight, temperature = tracks.config.weight, tracks.config.temperature

    def value(number: int, maps: list[Tensor]) -> Tensor:
        _, xy = pairs[number]
        return weight * track_loss(maps, xy.to(training.device), temperature)

    with training.clock.part("backward"):
        pictures = [pair for pair, _ in pairs]
        own = add_gradient_of_maps(training, tracks.stage, pictures, value, scaled)
    return float(sum(of_all(sum(own))))
