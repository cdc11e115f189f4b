"""Descriptors that a training makes of its collection, kept on disk by the weights that made them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float

from cnnimretrieval.descriptors.extract import ExtractConfig, describe
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.inputs import Inputs
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
    inputs: Inputs = field(default_factory=Inputs)

    def database(
        self, network: RetrievalNetwork, scales: Sequence[float] = (1.0,)
    ) -> Float[np.ndarray, "n d"]:
        """Unit descriptors of the whole collection, not whitened, in the order of the pair table."""
        whole = [self.collection.whole(row) for row in range(self.collection.table.num_images)]
        return self.of(network, "database", whole, scales)

    def queries(self, network: RetrievalNetwork) -> Float[np.ndarray, "q d"]:
        """Unit descriptors of the held-out queries, not whitened, in the order of the test."""
        return self.of(network, "queries", self.test.requests)

    def known_database(self, network: RetrievalNetwork) -> Float[np.ndarray, "n d"] | None:
        """What `database` gives, if these weights have described the collection already."""
        return self.database(network) if self._path("database", network, (1.0,)).is_file() else None

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

        Photos of the collection as they are have their descriptors among those of the database. Diverged,
        before anything is written, when the network gives no usable ones.
        """
        if what == "database":
            return self._made(network, what, requests, scales)
        row_of = {self.collection.whole(row): row for row in range(self.collection.table.num_images)}
        rows = np.array([row_of.get(request, -1) for request in requests], np.int64)
        others = [request for request, row in zip(requests, rows, strict=True) if row < 0]
        database = self.database(network, scales)
        vectors = np.empty((len(requests), database.shape[1]), np.float32)
        vectors[rows >= 0] = database[rows[rows >= 0]]
        if others:
            vectors[rows < 0] = self._made(network, what, others, scales)
        return vectors

    def _made(
        self, network: RetrievalNetwork, what: str, requests: Sequence[ImageRequest], scales: Sequence[float]
    ) -> Float[np.ndarray, "n d"]:
        path = self._path(what, network, scales)
        if not path.is_file():
            config = ExtractConfig(image_size=self.image_size, scales=tuple(scales))
            found = describe(
                network, requests, config, device=self.device, workers=self.workers, inputs=self.inputs
            )
            names = [request.path.relative_to(self.collection.photos).as_posix() for request in requests]
            made = sound_descriptors(found, names, differ=what == "database")
            with atomic_path(path) as unfinished, unfinished.open("wb") as file:
                np.save(file, made)
        vectors: Float[np.ndarray, "n d"] = np.load(path, mmap_mode="r")
        return vectors

    def _path(self, what: str, network: RetrievalNetwork, scales: Sequence[float]) -> Path:
        key = key_of(self.key_of_content(what), network.fingerprint(), list(scales))
        return self.folder / f"{what}-{key[:16]}.npy"
