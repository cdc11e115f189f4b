"""Descriptors that a training makes of its collection, kept on disk by the weights that made them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from cnnimretrieval.descriptors.extract import ExtractConfig, describe
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.evaluation.heldout import HeldoutTest
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.training.collection import Collection
from cnnimretrieval.training.divergence import sound_descriptors
from groundwork.files import atomic_path
from groundwork.keys import key_of


@dataclass(frozen=True, kw_only=True, eq=False)
class Descriptions:
    """Describes the collection and the test queries with any network, each set of weights only once.

    Files in `folder` are named after `key` (the training), the content and the network's weights: an
    interrupted training finds what it had described already.
    """

    collection: Collection
    test: HeldoutTest
    folder: Path
    key: str
    image_size: int
    device: str
    workers: int

    def database(
        self, network: RetrievalNetwork, scales: Sequence[float] = (1.0,)
    ) -> Float[np.ndarray, "n d"]:
        """Unit descriptors of the whole collection, not whitened, in the order of the pair table."""
        whole = [self.collection.whole(row) for row in range(self.collection.table.num_images)]
        return self.of(network, "database", whole, scales)

    def queries(self, network: RetrievalNetwork) -> Float[np.ndarray, "q d"]:
        """Unit descriptors of the held-out queries, not whitened, in the order of the test."""
        return self.of(network, "queries", self.test.requests)

    def key_of_content(self, what: str) -> str:
        """Changes with the photos that are called `what`, or the way in which they are described."""
        return self.key

    def of(
        self,
        network: RetrievalNetwork,
        what: str,
        requests: Sequence[ImageRequest],
        scales: Sequence[float] = (1.0,),
    ) -> Float[np.ndarray, "n d"]:
        """Unit descriptors of `requests`, called `what`; OSError naming the first unreadable photo.

        Diverged, before anything is written, when the network gives no usable ones.
        """
        key = key_of(self.key_of_content(what), network.fingerprint(), list(scales))
        path = self.folder / f"{what}-{key[:16]}.npy"
        if not path.is_file():
            config = ExtractConfig(image_size=self.image_size, scales=tuple(scales))
            found = describe(network, requests, config, device=self.device, workers=self.workers)
            names = [request.path.relative_to(self.collection.photos).as_posix() for request in requests]
            made = sound_descriptors(found, names, differ=what == "database")
            with atomic_path(path) as unfinished, unfinished.open("wb") as file:
                np.save(file, made)
        vectors: Float[np.ndarray, "n d"] = np.load(path, mmap_mode="r")
        return vectors
