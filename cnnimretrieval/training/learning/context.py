"""What one training works with: the network that learns, its photos and its settings."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

from cnnimretrieval.descriptors.halves import Look
from cnnimretrieval.descriptors.inputs import Inputs
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.training.auxiliary_losses.distillation import Teacher
from cnnimretrieval.training.auxiliary_losses.tracks import Tracks
from cnnimretrieval.training.learning.optimiser import frozen_layers
from cnnimretrieval.training.photos.collection import Collection
from cnnimretrieval.training.photos.descriptions import Descriptions
from cnnimretrieval.training.photos.sampling import num_clusters
from cnnimretrieval.training.settings.loop_config import LoopConfig
from cnnimretrieval.training.settings.train_config import TrainConfig
from cnnimretrieval.training.watching.clock import Clock
from cnnimretrieval.training.watching.journal import Journal
from cnnimretrieval.training.watching.trace import StepTrace
from cnnimretrieval.training.watching.watch import WatchConfig
from cnnimretrieval.whitening.apply import Whitening


@dataclass(frozen=True, kw_only=True, eq=False)
class Training:
    """`network` changes while it learns, the rest stays.

    With a `whitening`, negatives and loss see whitened descriptors: what the trunk learns then adds to what
    whitening does anyway. `descriptions` are those that were made of the collection on the way, if any;
    `teacher` gives the targets of distillation, `tracks` the points that photos share, where their losses
    are asked for; `journal` and `clock` tell how it goes.
    """

    network: RetrievalNetwork
    collection: Collection
    config: LoopConfig
    seed: int
    whitening: Whitening | None = None
    device: str = "cpu"
    workers: int = 0
    inputs: Inputs = field(default_factory=Inputs)
    descriptions: Descriptions | None = None
    teacher: Teacher | None = None
    tracks: Tracks | None = None
    watch: WatchConfig = field(default_factory=WatchConfig)
    journal: Journal = field(default_factory=Journal)
    clock: Clock = field(default_factory=Clock)
    trace: StepTrace = field(default_factory=StepTrace)

    @classmethod
    def of(
        cls,
        initial: RetrievalNetwork,
        descriptions: Descriptions,
        config: TrainConfig,
        *,
        whitening: Whitening | None = None,
        models: Sequence[Path] = (),
    ) -> "Training":
        """With a copy of `initial`, which learns from the photos of `descriptions`.

        `models` are those whose tracks teach where `config` asks for it. ValueError when the map that tracks
        are to teach stays as it is.
        """
        collection = descriptions.collection
        loop = _with_clusters_there_are(config.loop, collection)
        frozen = frozen_layers(initial, loop)
        return cls(
            network=deepcopy(initial),
            collection=collection,
            config=loop,
            seed=config.seed,
            whitening=whitening,
            device=descriptions.device,
            workers=descriptions.workers,
            inputs=descriptions.inputs,
            descriptions=descriptions,
            teacher=Teacher.of(initial, descriptions, loop.distillation, loop.query),
            tracks=Tracks.of(collection, models, loop.tracks, initial.trunk, frozen),
            watch=config.watch,
        )

    @property
    def look(self) -> Look:
        """How photos are shown to the network."""
        precision = self.config.precision
        assert precision != "auto"  # chosen before training
        return Look(image_size=self.config.image_size, precision=precision)


def _with_clusters_there_are(config: LoopConfig, collection: Collection) -> LoopConfig:
    """Of fewer clusters than were asked for a step learns from all, so that an epoch has more steps.

    Rates fall along the steps that an epoch has, and the journal counts them.
    """
    if config.sampling == "tuples":
        return config
    there = max(2, num_clusters(collection.table))  # drawing says that one is not enough
    return config.model_copy(update={"clusters_per_batch": min(config.clusters_per_batch, there)})
