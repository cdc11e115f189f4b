"""Descriptors that a training makes of its photos, kept on disk by what they are of and what made them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float

from cnnimretrieval.descriptors.extract import ExtractConfig
from cnnimretrieval.descriptors.images import PIXELS_VERSION, ImageRequest
from cnnimretrieval.descriptors.inputs import Inputs
from cnnimretrieval.descriptors.reading import EDITS
from cnnimretrieval.descriptors.together import describe_together
from cnnimretrieval.distributed import first_says, is_first, wait
from cnnimretrieval.evaluation.queries import QuerySet, Situation, query_set
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.training.photos.collection import Collection
from cnnimretrieval.training.safeguards.divergence import sound_descriptors
from groundwork.child import preload
from groundwork.files import atomic_path
from groundwork.keys import key_of
from groundwork.photo_source import read_source
from pairs.heldout import Purpose, read_heldout
from pairs.pair_table import read_pair_table


@dataclass(frozen=True, kw_only=True, eq=False)
class Descriptions:
    """Describes the collection and the queries with any network, each set of weights only once.

    Files in `folder` are named after the photos' `content`, what is asked of them, and the network's weights
    but those of a local head, which takes no part: whoever asks again, with other settings or after an
    interruption, finds what was described already.
    """

    collection: Collection
    queries: QuerySet
    folder: Path
    content: str
    image_size: int
    device: str
    workers: int
    inputs: Inputs = field(default_factory=Inputs)
    _used: set[Path] = field(default_factory=set)

    def database(
        self, network: RetrievalNetwork, scales: Sequence[float] = (1.0,)
    ) -> Float[np.ndarray, "n d"]:
        """Unit descriptors of the whole collection, not whitened, in the order of the pair table."""
        return self.of(network, "database", self._whole(), scales)

    def of_situation(
        self, network: RetrievalNetwork, situation: Situation
    ) -> tuple[Float[np.ndarray, "q d"], Float[np.ndarray, "k d"]]:
        """What is asked and what is searched in a situation; nothing else of the collection is described."""
        if situation.database is None or self.known_database(network) is not None:
            queries = self.query_vectors(network)[situation.queries]
            return queries, situation.searched(self.database(network))
        asked = [self.queries.requests[number] for number in situation.queries]
        searched = [self.collection.whole(row) for row in situation.database]
        return (
            self._made(network, f"queries of {situation.name}", asked, (1.0,)),
            self._made(network, f"photos of {situation.name}", searched, (1.0,)),
        )

    def known_database(self, network: RetrievalNetwork) -> Float[np.ndarray, "n d"] | None:
        """What `database` gives, if these weights have described the collection already."""
        known = first_says(self._path("database", network, self._whole(), (1.0,)).is_file())
        return self.database(network) if known else None

    def _whole(self) -> list[ImageRequest]:
        return [self.collection.whole(row) for row in range(self.collection.table.num_images)]

    def query_vectors(self, network: RetrievalNetwork) -> Float[np.ndarray, "q d"]:
        """Unit descriptors of the test queries, not whitened, in their order."""
        return self.of(network, "queries", self.queries.requests)

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
        vectors = np.empty((len(requests), network.dim), np.float32)
        if (rows >= 0).any():
            vectors[rows >= 0] = self.database(network, scales)[rows[rows >= 0]]
        if others:
            vectors[rows < 0] = self._made(network, what, others, scales)
        return vectors

    def _made(
        self, network: RetrievalNetwork, what: str, requests: Sequence[ImageRequest], scales: Sequence[float]
    ) -> Float[np.ndarray, "n d"]:
        path = self._path(what, network, requests, scales)
        self._used.add(path)
        if not first_says(path.is_file()):
            config = ExtractConfig(image_size=self.image_size, scales=tuple(scales))
            found = describe_together(
                network,
                requests,
                config,
                device=self.device,
                workers=self.workers,
                inputs=self.inputs,
                desc=f"describe {what}",
            )
            made = sound_descriptors(found, self._names(requests), differ=what == "database")
            if is_first():
                with atomic_path(path) as unfinished, unfinished.open("wb") as file:
                    np.save(file, made)
            wait()
        vectors: Float[np.ndarray, "n d"] = np.load(path, mmap_mode="r")
        return vectors

    def _path(
        self, what: str, network: RetrievalNetwork, requests: Sequence[ImageRequest], scales: Sequence[float]
    ) -> Path:
        asked = [
            f"{name} {one.box} {one.rotation_deg} {one.edit} {one.as_photo}"
            for name, one in zip(self._names(requests), requests, strict=True)
        ]
        maker = network.without_local().fingerprint()
        key = key_of(PIXELS_VERSION, self.content, asked, self.image_size, list(scales), maker)
        return self.folder / f"{what.replace(' ', '-')}-{key[:16]}.npy"

    def _names(self, requests: Sequence[ImageRequest]) -> list[str]:
        return [request.path.relative_to(self.collection.photos).as_posix() for request in requests]

    def drop_unused(self) -> None:
        """Remove the descriptors of earlier trainings that nobody asked for."""
        for path in set(self.folder.glob("*.npy")) - self._used:
            path.unlink()


def descriptions_of(
    pairs: Path,
    folder: Path,
    image_size: int,
    *,
    device: str = "cpu",
    workers: int = 0,
    inputs: Inputs | None = None,
    needed: Purpose = "report",
) -> Descriptions:
    """Of the photos and test queries that mining left in `pairs`, kept in `folder`.

    ValueError when there is no query of the purpose that is `needed`.
    """
    preload(*EDITS)
    source, table = read_source(pairs), read_pair_table(pairs)
    return Descriptions(
        collection=Collection(photos=source.folder, table=table),
        queries=query_set(read_heldout(pairs / "heldout.parquet"), table, source.folder, needed=needed),
        folder=folder,
        content=source.content,
        image_size=image_size,
        device=device,
        workers=workers,
        inputs=inputs or Inputs(),
    )
