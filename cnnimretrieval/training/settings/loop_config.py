"""The settings of the training loop: what is drawn, which loss, which optimiser."""

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from cnnimretrieval.networks.precision import Precision
from cnnimretrieval.training.auxiliary_losses.distillation import DistillationConfig
from cnnimretrieval.training.auxiliary_losses.tracks import TrackLossConfig
from cnnimretrieval.training.losses.margin_heads import MarginConfig
from cnnimretrieval.training.losses.registry import (
    LOSSES,
    BatchLoss,
    BatchLossConfig,
    ClassLoss,
    LossName,
    TupleLoss,
)
from cnnimretrieval.training.photos.collection import QueryConfig
from cnnimretrieval.training.photos.sampling import DrawnBy
from cnnimretrieval.training.settings.schedule import ScheduleConfig
from groundwork.settings import Settings
from pairs.negatives import NegativesConfig


class LoopConfig(Settings):
    """The training loop; the defaults are the published ones (Radenovic et al., TPAMI 2019, in PyTorch).

    With `sampling` "tuples" an epoch learns from tuples with hard negatives, mined at its start. With
    "clusters" (P x K) a step learns from `clusters_per_batch` clusters, of each a query and positives of it.
    """

    image_size: int = Field(default=362, gt=0, description="longest side in px; photos are never enlarged")
    epochs: int = Field(default=100, ge=0)
    validation_epochs: int = Field(
        default=1, ge=1, description="held-out places are scored every so many epochs and after the last"
    )
    tuples_per_epoch: int = Field(default=2000, gt=0, description="queries of an epoch, with any sampling")
    drawn_by: DrawnBy = Field(
        default="query",
        description="of tuples: every query as often, or every pair by its weight, as the reference draws",
    )
    unplaced_share: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        exclude_if=lambda share: not share,
        description="of the tuples: a detail of a photo that matched nothing, with the whole photo as its "
        "positive; not published",
    )
    pool_size: int = Field(default=22000, gt=0, description="images searched for hard negatives")
    pool_holds_pairs: bool = Field(
        default=False, description="the pool begins with the drawn queries and positives, as in MatConvNet"
    )
    minings_per_epoch: int = Field(
        default=1,
        ge=1,
        description="the tuples are mined in parts, all in one pool, by the network as it is then",
    )
    negatives: NegativesConfig = NegativesConfig()
    query: QueryConfig = QueryConfig()
    sampling: Literal["tuples", "clusters"] = "tuples"
    clusters_per_batch: int = Field(default=8, ge=2, description="P; with sampling by clusters")
    images_per_cluster: int = Field(default=4, ge=2, description="K, the query included; the same")
    cliques: bool = Field(
        default=False,
        exclude_if=lambda cliques: not cliques,
        description="with sampling by clusters: the K images match each other, not the query alone, so that "
        "each has K - 1 positives",
    )
    loss: LossName = "contrastive"
    margin: float = Field(default=0.75, gt=0, le=4, description="of the loss: 0.7 AlexNet ... 0.85 ResNet101")
    batch_loss: BatchLossConfig = BatchLossConfig()
    # Left out of what is written unless it is set: see NetworkConfig.local.
    class_loss: MarginConfig = Field(
        default=MarginConfig(),
        exclude_if=lambda config: config == MarginConfig(),
        description="constants of arcface, cosface, sphereface and subcentre_arcface",
    )
    memory_size: int = Field(
        default=0, ge=0, description="latest descriptors that serve a batch loss as more negatives (XBM)"
    )
    # Left out of what is written unless it is set: see NetworkConfig.local.
    distillation: DistillationConfig = Field(
        default=DistillationConfig(),
        exclude_if=lambda distillation: distillation == DistillationConfig(),
        description="from the initial network; not published",
    )
    tracks: TrackLossConfig = Field(
        default=TrackLossConfig(),
        exclude_if=lambda tracks: tracks == TrackLossConfig(),
        description="a loss of the trunk's local activations; not published",
    )
    through_whitening: bool = Field(
        default=False,
        description="negatives and loss see descriptors whitened as the initial network's are; not published",
    )
    batch_tuples: int = Field(default=5, gt=0, description="tuples between two steps of the optimiser")
    pictures_at_once: int | None = Field(
        default=None,
        gt=0,
        description="that go through the network with a gradient together, which bounds memory; more of them "
        "go through in parts, twice unless the loss does not move them; None: a tuple, or 16 of a whole step "
        "where the lowest layers stay",
    )
    gradient: Literal["summed", "per_pair"] = Field(
        default="summed", description="over the pairs of a step, or divided by their number as in MatConvNet"
    )
    precision: Precision | Literal["auto"] = Field(
        default="float32",
        description="of the activations, also in mining; descriptors and loss are float32; auto: bfloat16 "
        "where the machine is faster in it; float16: losses are scaled so that gradients fit it",
    )
    recompute: bool = Field(
        default=False,
        exclude_if=lambda recompute: not recompute,
        description="layers keep only what goes into them and work again on the way back: less memory, more "
        "time, the same numbers",
    )
    optimizer: Literal["adam", "sgd"] = "adam"
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of sgd")
    learning_rate: float = Field(default=5e-7, gt=0, le=1e6)
    learning_rate_decay: float = Field(default=0.01, ge=0, description="rate * exp(-decay * decays so far)")
    decay_epochs: int = Field(default=1, ge=1, description="the rate decays every so many epochs")
    decay_before_first: bool = Field(
        default=True, description="the first epoch counts as one decay, as in the PyTorch reference"
    )
    # What is left out of what is written unless it is set: see NetworkConfig.local.
    schedule: ScheduleConfig = Field(
        default=ScheduleConfig(),
        exclude_if=lambda schedule: schedule == ScheduleConfig(),
        description="of the learning rate",
    )
    lowest_rate_factor: float = Field(
        default=1.0,
        gt=0,
        le=1,
        exclude_if=lambda factor: factor == 1.0,
        description="the lowest layer of the trunk learns so much slower, those between evenly so",
    )
    average_decay: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        exclude_if=lambda decay: decay == 0.0,
        description="of an exponential moving average of the weights over the steps, which is scored and "
        "handed out; 0: none",
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        exclude_if=lambda patience: patience is None,
        description="training stops after so many scorings in a row that are no better than the best, whose "
        "weights are handed out; None: it goes to the end, whose weights are",
    )
    not_finite: Literal["stop", "skip"] = Field(
        default="stop",
        exclude_if=lambda what: what == "stop",
        description="what a step does whose loss or gradient is NaN or infinite: ends the training, or moves "
        "no weights and is told",
    )
    gem_rate_factor: float | None = Field(
        default=None,
        ge=0,
        le=1e6,
        description="GeM's p learns this much faster; 10 when not set, 100 with a p for each channel",
    )
    weight_decay: float = Field(default=1e-6, ge=0, description="not on GeM's p")
    frozen_share: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="of the trunk's weight tensors, lowest first, that stay as they are",
    )
    initial_share: Annotated[float, Field(ge=0, lt=1)] | Literal["chosen"] = Field(
        default=0.0,
        description="of the initial weights in the average that is handed out; or chosen, by the queries to "
        "choose by",
    )

    @model_validator(mode="after")
    def _loss_fits_sampling(self) -> "LoopConfig":
        over_batches = [name for name, loss in LOSSES.items() if isinstance(loss, BatchLoss)]
        if self.loss in over_batches:
            return self
        if isinstance(LOSSES[self.loss], ClassLoss) and not self.memory_size:
            return self
        if self.sampling == "clusters" and isinstance(LOSSES[self.loss], TupleLoss):
            raise ValueError(
                f"loop: expected a loss over batches with sampling by clusters, got {self.loss}; "
                f"choose {', '.join(over_batches[:-1])} or {over_batches[-1]}"
            )
        if self.memory_size:
            what = "classes" if isinstance(LOSSES[self.loss], ClassLoss) else "tuples"
            raise ValueError(
                f"loop: expected memory_size 0 with a loss over {what}, got {self.memory_size}; "
                "choose a loss over batches, or no memory"
            )
        return self

    @model_validator(mode="after")
    def _unplaced_in_tuples(self) -> "LoopConfig":
        in_tuples = self.sampling == "tuples" and isinstance(LOSSES[self.loss], TupleLoss)
        if self.unplaced_share and not in_tuples:
            raise ValueError(
                f"loop: expected unplaced_share 0 with {self.loss} and sampling by {self.sampling}, got "
                f"{self.unplaced_share:g}; photos without a place are learned from in tuples, by a loss over "
                "tuples"
            )
        return self

    def rate(self, epoch: int, steps: int = 0) -> float:
        """The learning rate in an epoch, counted from 1, after so many steps of it."""
        whole = (epoch - 1) * self.steps_per_epoch + min(steps, self.steps_per_epoch)
        return self.learning_rate * self._share(epoch, whole) * self.schedule.warmed(whole)

    def _share(self, epoch: int, steps: int) -> float:
        if self.schedule.kind == "constant":
            return 1.0
        if self.schedule.kind == "cosine":
            return self.schedule.cosine(steps / (self.epochs * self.steps_per_epoch))
        late = 0 if self.decay_before_first else 1
        decays = (epoch - late) // self.decay_epochs
        return math.exp(-self.learning_rate_decay * decays)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch in which every query finds a negative; there may be fewer."""
        of_step = self.clusters_per_batch if self.sampling == "clusters" else self.batch_tuples
        return sum(-(-size // of_step) for size in self.part_sizes)

    @property
    def part_sizes(self) -> list[int]:
        """Queries of each part of an epoch, as even as whole numbers allow; together `tuples_per_epoch`."""
        parts = 1 if self.sampling == "clusters" else self.minings_per_epoch
        sizes = [(self.tuples_per_epoch + number) // parts for number in range(parts)]
        return [size for size in sizes if size]
