"""Linear classifiers on maps of a frozen trunk that are pooled in one way or another.

    unit pooled vector, [BatchNorm, linear, ReLU, unit], BatchNorm, linear

The unit vector before the last two is the descriptor. Pooling that learns nothing is done once.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float16, Int
from torch import Tensor, nn
from torch.nn import functional

from cnnimretrieval.networks.pooling import Gem, build_pooling, l2_normalise
from groundwork.settings import Values

# Exponents learn ten times as fast and do not decay, as published for retrieval.
_EXPONENT_RATE = 10.0
_DECAY = 1e-2
# Photos whose maps are in memory at a time, besides a batch.
_BLOCK = 64


class MeanAndMax(nn.Module):
    """Mean and maximum of each channel, each a unit vector, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([build_pooling("spoc"), build_pooling("mac")])

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2"]:
        """Twice as many numbers as channels."""
        return torch.cat([l2_normalise(part(x)) for part in self.parts], dim=1)


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way of pooling: numbers that it gives for each channel, and whether a learned layer follows."""

    pool: Callable[[], nn.Module]
    per_channel: int = 1
    layer: bool = False


def _fixed_gem() -> nn.Module:
    return build_pooling("gem").requires_grad_(False)


# The first is what the others are compared with; the last tells what the layer alone does.
WAYS: Mapping[str, Way] = {
    "GeM, p = 3": Way(pool=_fixed_gem),
    "GeM, p learned": Way(pool=lambda: build_pooling("gem")),
    "average": Way(pool=lambda: build_pooling("spoc")),
    "max": Way(pool=lambda: build_pooling("mac")),
    "mean and max, learned layer": Way(pool=MeanAndMax, per_channel=2, layer=True),
    "average, learned layer": Way(pool=lambda: build_pooling("spoc"), layer=True),
}


class Learning(Values):
    """How long and how fast a classifier learns; AdamW, its rate falling to 0 by half a cosine."""

    steps: int = 600
    batch: int = 64
    rate: float = 1e-3


@dataclass(frozen=True, kw_only=True, eq=False)
class Learned:
    """Of the tested photos, in order: the predicted class, and the unit descriptor; GeM's exponent."""

    predicted: Int[np.ndarray, " n"]
    descriptors: Float[np.ndarray, "n d"]
    exponent: float | None


class PooledClassifier(nn.Module):
    """Pooling, a learned layer where the way has one, and a linear classifier."""

    def __init__(self, way: Way, channels: int, classes: int) -> None:
        super().__init__()
        self.pool = way.pool()
        self.layer = nn.Sequential(*_standard_linear(way.per_channel * channels, channels), nn.ReLU())
        if not way.layer:
            self.layer = nn.Sequential()
        self.classifier = nn.Sequential(*_standard_linear(channels, classes))

    @property
    def learns_to_pool(self) -> bool:
        """Whether pooling itself has something to learn."""
        return any(parameter.requires_grad for parameter in self.pool.parameters())

    def pooled(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Pooled maps as unit vectors."""
        return l2_normalise(self.pool(maps))

    def described(self, pooled: Float[Tensor, "b k"]) -> Float[Tensor, "b d"]:
        """Unit descriptors of pooled maps."""
        return l2_normalise(self.layer(_spread(pooled)))

    def forward(self, pooled: Float[Tensor, "b k"]) -> Float[Tensor, "b classes"]:
        """A number for each class."""
        scores: Tensor = self.classifier(_spread(self.described(pooled)))
        return scores


def learn(
    way: Way,
    maps: Float16[np.ndarray, "n c h w"],
    labels: Int[np.ndarray, " n"],
    is_test: Bool[np.ndarray, " n"],
    seed: int,
    learning: Learning,
) -> Learned:
    """Learn from the maps that are not tested, and say what the others are taken for."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PooledClassifier(way, maps.shape[1], int(labels.max()) + 1)
    known = np.flatnonzero(~is_test)
    once = None if model.learns_to_pool else _pool_all(model, maps)
    optimizer = _optimizer(model, learning)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, learning.steps)
    model.train()
    for drawn in _batches(len(known), learning, torch.Generator().manual_seed(seed)):
        rows = known[drawn.numpy()]
        pooled = model.pooled(_maps_of(maps, rows)) if once is None else once[torch.from_numpy(rows)]
        loss = functional.cross_entropy(model(pooled), torch.from_numpy(labels[rows]))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    model.eval()
    with torch.inference_mode():
        pooled = (_pool_all(model, maps) if once is None else once)[torch.from_numpy(is_test)]
        return Learned(
            predicted=model(pooled).argmax(dim=1).numpy(),
            descriptors=model.described(pooled).numpy(),
            exponent=float(model.pool.power) if isinstance(model.pool, Gem) else None,
        )


def _standard_linear(width: int, out: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm1d(width), nn.Linear(width, out)


def _spread(unit: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
    """Unit vectors at numbers of about 1, which BatchNorm's epsilon is made for."""
    return unit * float(unit.shape[1] ** 0.5)


def _optimizer(model: PooledClassifier, learning: Learning) -> torch.optim.Optimizer:
    exponents: dict[str, Any] = {
        "params": [*model.pool.parameters()],
        "lr": _EXPONENT_RATE * learning.rate,
        "weight_decay": 0.0,
    }
    rest: dict[str, Any] = {"params": [*model.layer.parameters(), *model.classifier.parameters()]}
    return torch.optim.AdamW([rest, exponents], lr=learning.rate, weight_decay=_DECAY)


def _batches(count: int, learning: Learning, generator: torch.Generator) -> Iterator[Int[Tensor, " b"]]:
    """Rows of each step: all in a new order, again and again, without the rest that fills no batch."""
    size = min(learning.batch, count)
    left = torch.empty(0, dtype=torch.int64)
    for _ in range(learning.steps):
        if len(left) < size:
            left = torch.randperm(count, generator=generator)
        yield left[:size]
        left = left[size:]


def _maps_of(maps: Float16[np.ndarray, "n c h w"], rows: Int[np.ndarray, " b"]) -> Float[Tensor, "b c h w"]:
    return torch.from_numpy(maps[rows].astype(np.float32))


def _pool_all(model: PooledClassifier, maps: Float16[np.ndarray, "n c h w"]) -> Float[Tensor, "n k"]:
    blocks = np.array_split(np.arange(len(maps)), range(_BLOCK, len(maps), _BLOCK))
    with torch.no_grad():
        return torch.cat([model.pooled(_maps_of(maps, rows)) for rows in blocks])
