"""What one training works with: the network that learns, its photos and its settings."""

from dataclasses import dataclass

from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.training.collection import Collection
from cnnimretrieval.training.settings import LoopConfig
from cnnimretrieval.whitening.apply import Whitening


@dataclass(frozen=True, kw_only=True, eq=False)
class Training:
    """`network` changes while it learns, the rest stays.

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
