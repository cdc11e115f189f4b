"""The training loop: per epoch, mine hard negatives with the network as it is, then learn from the tuples."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from cnnimretrieval.descriptors.extract import ExtractConfig, describe
from cnnimretrieval.descriptors.images import normalise
from cnnimretrieval.descriptors.whitening import Whitening
from cnnimretrieval.descriptors.whitening import apply as apply_whitening
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.networks.pooling import Gem, l2_normalise
from cnnimretrieval.training.checkpoint import EpochLog, Progress, load_checkpoint, save_checkpoint
from cnnimretrieval.training.losses import LossName, contrastive, triplet
from cnnimretrieval.training.tuples import (
    Collection,
    QueryConfig,
    TupleDataset,
    Tuples,
    assemble,
    draw_pairs,
    draw_pool,
)
from pairs.negatives import NegativesConfig, mine_hard_negatives
from sfm.settings import Settings

logger = logging.getLogger(__name__)

# Scores of the network as it is: called before the first epoch (0) and after each.
Validate = Callable[[RetrievalNetwork], dict[str, float]]


class LoopConfig(Settings):
    """The training loop; the defaults are the published ones (Radenovic et al., TPAMI 2019, in PyTorch)."""

    image_size: int = Field(default=362, gt=0, description="longest side in px; photos are never enlarged")
    epochs: int = Field(default=100, ge=0)
    tuples_per_epoch: int = Field(default=2000, gt=0)
    pool_size: int = Field(default=22000, gt=0, description="images searched for hard negatives")
    negatives: NegativesConfig = NegativesConfig()
    query: QueryConfig = QueryConfig()
    loss: LossName = "contrastive"
    margin: float = Field(default=0.75, gt=0, le=4, description="of the loss: 0.7 AlexNet ... 0.85 ResNet101")
    through_whitening: bool = Field(
        default=False,
        description="negatives and loss see descriptors whitened as the initial network's are; not published",
    )
    batch_tuples: int = Field(default=5, gt=0, description="tuples between two steps of the optimiser")
    learning_rate: float = Field(default=5e-7, gt=0)
    learning_rate_decay: float = Field(default=0.01, ge=0, description="rate * exp(-decay * epoch)")
    gem_rate_factor: float = Field(default=10.0, ge=0, description="GeM's p learns this much faster")
    weight_decay: float = Field(default=1e-6, ge=0, description="not on GeM's p")
    frozen_share: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="of the trunk's weight tensors, lowest first, that stay as they are",
    )
    initial_share: float = Field(
        default=0.0, ge=0, lt=1, description="of the initial weights in the average that is handed out"
    )


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


def run_loop(
    training: Training,
    checkpoint: Path,
    key: str,
    validate: Validate,
    keep_tuples: Callable[[int, Tuples], None] = lambda epoch, tuples: None,
) -> Progress:
    """Fine-tune the network in place and return a log per epoch, the initial network's first.

    Goes on from `checkpoint` when that was made with the same `key`; an interrupted training ends with the
    same weights as an unbroken one. Running statistics of BatchNorm stay as they are, its affine weights
    learn, as published. `keep_tuples` sees the tuples of each epoch. ValueError when the training places
    give no pair or no negative, OSError when a photo cannot be read any more.
    """
    network, config = training.network, training.config
    network.to(training.device).eval()
    initial = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = _optimizer(network, config)
    progress = load_checkpoint(checkpoint, key, network, optimizer)
    if progress.epoch < 0:
        progress = Progress(logs=(EpochLog(epoch=0, validation=validate(network)),))
        save_checkpoint(checkpoint, key, network, optimizer, progress)
    for epoch in range(progress.epoch + 1, config.epochs + 1):
        started = time.monotonic()
        rng = np.random.default_rng((training.seed, epoch))
        for group in optimizer.param_groups:
            decay = math.exp(-config.learning_rate_decay * epoch)
            group["lr"] = group["factor"] * config.learning_rate * decay
        tuples, negative_distance = mine_tuples(training, rng)
        keep_tuples(epoch, tuples)
        loss = _learn(training, optimizer, tuples, rng)
        log = EpochLog(
            epoch=epoch,
            loss=loss,
            negative_distance=negative_distance,
            missing_negatives=tuples.shortage,
            learning_rate=optimizer.param_groups[0]["lr"],
            seconds=round(time.monotonic() - started, 1),
            validation=validate(network),
        )
        logger.info(_described(log))
        progress = Progress(logs=(*progress.logs, log))
        save_checkpoint(checkpoint, key, network, optimizer, progress)
    _average(network, initial, config.initial_share)
    return progress


def mine_tuples(training: Training, rng: np.random.Generator) -> tuple[Tuples, float]:
    """The tuples of an epoch by the network as it is, and the mean distance of queries to their negatives."""
    collection, config = training.collection, training.config
    table = collection.table
    query, positive = draw_pairs(table, config.tuples_per_epoch, rng)
    requests = tuple(collection.query(int(row), config.query, rng) for row in query)
    pool = draw_pool(table, config.pool_size, config.negatives.allow_unplaced, rng)
    vectors = describe(
        training.network,
        [*requests, *(collection.whole(int(row)) for row in pool)],
        ExtractConfig(image_size=config.image_size),
        device=training.device,
        workers=training.workers,
    ).require_all()
    if training.whitening is not None:
        vectors = apply_whitening(training.whitening, vectors)
    found = mine_hard_negatives(
        vectors[: len(query)],
        table.place[query],
        vectors[len(query) :],
        table.cluster[pool],
        table.place[pool],
        config.negatives,
    )
    if not found.count.any():
        raise ValueError(
            "training: expected negatives from at least two training places, got images of one; "
            "add photos of other places, or set train.loop.negatives.allow_unplaced"
        )
    distances = np.sqrt(np.clip(2.0 - 2.0 * found.score[found.pool_row >= 0], 0.0, None))
    return assemble(query, positive, requests, pool, found), float(distances.mean())


def tuple_loss(training: Training, pictures: Sequence[UInt8[Tensor, "3 _ _"]]) -> Float[Tensor, ""]:
    """Loss of one tuple; pictures of one size go through the network together, which changes nothing."""
    descriptors = _described_with_gradient(training, pictures)[None]
    function = contrastive if training.config.loss == "contrastive" else triplet
    return function(descriptors, training.config.margin).sum()


def _optimizer(network: RetrievalNetwork, config: LoopConfig) -> torch.optim.Adam:
    trunk = list(network.trunk.parameters())
    frozen = round(config.frozen_share * len(trunk))
    for number, weight in enumerate(trunk):
        weight.requires_grad_(number >= frozen)
    groups: list[dict[str, Any]] = [
        {"params": trunk[frozen:], "weight_decay": config.weight_decay, "factor": 1.0}
    ]
    if isinstance(network.pool, Gem):
        groups.append({"params": [network.pool.p], "weight_decay": 0.0, "factor": config.gem_rate_factor})
    return torch.optim.Adam(groups, lr=config.learning_rate)


def _learn(
    training: Training, optimizer: torch.optim.Adam, tuples: Tuples, rng: np.random.Generator
) -> float:
    """One pass over the tuples, in random order; the mean loss of a tuple before its own step."""
    config = training.config
    # A tuple without any negative has nothing to hold the descriptors apart.
    usable = np.flatnonzero((tuples.negatives >= 0).any(axis=1))
    dataset = TupleDataset(tuples, training.collection, config.image_size, rng.permutation(usable))
    loader = DataLoader(dataset, batch_size=None, num_workers=training.workers, collate_fn=_as_it_is)
    total = 0.0
    bar = tqdm(loader, desc="learn", unit="tuple", total=len(dataset), disable=None)
    for number, loaded in enumerate(bar, start=1):
        loss = tuple_loss(training, loaded.pictures)
        loss.backward()  # type: ignore[no-untyped-call]
        total += float(loss.detach())
        if number % config.batch_tuples == 0 or number == len(dataset):
            optimizer.step()
            optimizer.zero_grad()
    return total / len(dataset)


def _described_with_gradient(
    training: Training, pictures: Sequence[UInt8[Tensor, "3 _ _"]]
) -> Float[Tensor, "k d"]:
    trunk = training.network.trunk
    rows_of: dict[torch.Size, list[int]] = {}
    for row, picture in enumerate(pictures):
        rows_of.setdefault(picture.shape, []).append(row)
    described: list[Tensor] = [torch.empty(0)] * len(pictures)
    for rows in rows_of.values():
        levels = torch.stack([pictures[row] for row in rows]).to(training.device)
        images = normalise(levels, trunk.mean, trunk.std)
        vectors = training.network(images.contiguous(memory_format=torch.channels_last))
        for row, vector in zip(rows, vectors, strict=True):
            described[row] = vector
    stacked = torch.stack(described)
    return stacked if training.whitening is None else _whitened(stacked, training.whitening)


def _whitened(vectors: Float[Tensor, "k d"], whitening: Whitening) -> Float[Tensor, "k e"]:
    """`whitening.apply` with a gradient."""
    mean, projection = (torch.from_numpy(part).to(vectors) for part in (whitening.mean, whitening.projection))
    return l2_normalise((vectors - mean) @ projection.T)


def _average(network: nn.Module, initial: dict[str, Tensor], initial_share: float) -> None:
    """Move the weights back towards the initial ones (Wortsman et al., CVPR 2022)."""
    if initial_share == 0.0:
        return
    averaged = {
        name: torch.lerp(value, initial[name], initial_share) if value.is_floating_point() else value
        for name, value in network.state_dict().items()
    }
    network.load_state_dict(averaged)


def _described(log: EpochLog) -> str:
    scores = ", ".join(f"{name} {value:.4f}" for name, value in log.validation.items())
    short = (
        f", {log.missing_negatives} negatives missing: too few other places" if log.missing_negatives else ""
    )
    return f"epoch {log.epoch}: loss {log.loss:.4f}, {scores}{short}, {log.seconds:.0f} s"


def _as_it_is(loaded: Any) -> Any:
    return loaded
