"""What one training works with: the network that learns, its photos and its settings."""

from dataclasses import dataclass, field

from cnnimretrieval.descriptors.halves import Look
from cnnimretrieval.descriptors.inputs import Inputs
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.training.clock import Clock
from cnnimretrieval.training.collection import Collection
from cnnimretrieval.training.descriptions import Descriptions
from cnnimretrieval.training.distillation import Teacher
from cnnimretrieval.training.journal import Journal
from cnnimretrieval.training.settings import LoopConfig
from cnnimretrieval.training.trace import StepTrace
from cnnimretrieval.training.tracks import Tracks
from cnnimretrieval.training.watch import WatchConfig
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

    @property
    def look(self) -> Look:
        """How photos are shown to the network."""
        precision = self.config.precision
        assert precision != "auto"  # chosen before training
        return Look(image_size=self.config.image_size, precision=precision)
