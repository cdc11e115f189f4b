"""A finished run as benchmarks of search take it up: its network, held-out queries, descriptors and truth.

Positives are judged in two ways: by the tracks that the reconstruction found, which are made of SIFT and so
favour SIFT, and by place, where every photo of the query's place counts: more than geometry can see.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.evaluation.benchmark import Benchmark, Query
from cnnimretrieval.evaluation.metrics import Relevance
from cnnimretrieval.evaluation.queries import QuerySet, query_set
from cnnimretrieval.local.pyramid import PyramidConfig, describe_locally
from cnnimretrieval.local.store import LocalMeta, LocalStore, read_local, write_local
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.networks.open import load
from cnnimretrieval.training.collection import Collection
from cnnimretrieval.training.descriptions import Descriptions
from cnnimretrieval.whitening.apply import apply
from groundwork.files import read_json
from groundwork.keys import key_of
from groundwork.records import record_of
from pairs.heldout import read_heldout
from pairs.pair_table import read_pair_table


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """Some held-out queries of one kind, to be searched in the whole collection.

    `places` are those of the queries; `vectors` are whitened where the network has a whitening.
    """

    kind: str
    requests: list[ImageRequest]
    vectors: Float[np.ndarray, "q d"]
    benchmark: Benchmark
    places: list[int]

    def mean_over_places(self, average_precision: Float[np.ndarray, " q"]) -> float:
        """Mean over places of the mean over a place's queries."""
        return float(pd.Series(average_precision).groupby(self.places).mean().mean())


@dataclass(frozen=True, kw_only=True, eq=False)
class Finished:
    """A finished run; descriptors are taken from it where training left them."""

    photos: Path
    network: RetrievalNetwork
    test: QuerySet
    descriptions: Descriptions

    @property
    def names(self) -> tuple[str, ...]:
        """The photos of the collection, in the order of the database."""
        return self.test.table.names

    def request(self, row: int) -> ImageRequest:
        """What a row of the database shows."""
        return self.descriptions.collection.whole(row)

    @cached_property
    def database(self) -> Float[np.ndarray, "n d"]:
        """The descriptors of the collection."""
        return self._whitened(self.descriptions.database(self._plain))

    @cached_property
    def _asked(self) -> Float[np.ndarray, "q d"]:
        return self._whitened(self.descriptions.query_vectors(self._plain))

    @cached_property
    def _plain(self) -> RetrievalNetwork:
        """Without whitening and local head, as training described everything."""
        return self.network.with_pooling(self.network.pool)

    def _whitened(self, vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        whitening = self.network.whitening_for((1.0,))
        return np.array(vectors) if whitening is None else apply(whitening, np.array(vectors))

    def asked(self, kind: str, every: int) -> Asked:
        """Each `every`-th reported query of a kind, of the held-out places."""
        situation = next(one for one in self.test.situations("report") if one.name == "own_collection")
        rows = np.array([n for n in situation.queries if self.test.queries[n].kind == kind][::every])
        by_tracks, by_place = [], []
        for number in rows.tolist():
            own = self.names.index(self.test.queries[number].query)
            near, far, junk = self.test.truth(number, situation)
            by_tracks.append(Relevance(positives=np.concatenate([near, far]), junk=junk))
            place = np.concatenate([near, far, junk])
            by_place.append(Relevance(positives=place[place != own], junk=np.array([own])))
        queries = [self.test.queries[number] for number in rows.tolist()]
        benchmark = Benchmark(
            name=f"held-out {kind} queries",
            photos=self.photos,
            query_photos=self.photos,
            database=self.names,
            queries=tuple(Query(name=query.query) for query in queries),
            protocols={"tracks": tuple(by_tracks), "place": tuple(by_place)},
        )
        return Asked(
            kind=kind,
            requests=[self.test.requests[number] for number in rows.tolist()],
            vectors=self._asked[rows],
            benchmark=benchmark,
            places=[query.place for query in queries],
        )

    def local_features(self, config: PyramidConfig, folder: Path) -> LocalStore:
        """The local features of the collection, found now unless `folder` holds them."""
        maker = key_of(self.network.fingerprint(), config)
        record = record_of(folder / "local", "local")
        if record is not None and record.key == maker:
            return read_local(folder)
        requests = [self.request(row) for row in range(len(self.names))]
        found = describe_locally(self.network, requests, config)
        meta = LocalMeta(
            maker=maker,
            method=self.network.config.backbone,
            dim=self.network.require_local()[1].dim,
            settings=config.model_dump(mode="json"),
        )
        return write_local(
            folder, ((name, one[0]) for name, one in zip(self.names, found, strict=True)), meta
        )


def finished(work: Path, workers: int) -> Finished:
    """The run in a folder."""
    source, table = read_json(work / "pairs" / "photos.json"), read_pair_table(work / "pairs")
    photos, network = Path(source["photos"]), load(work / "model")
    test = query_set(read_heldout(work / "pairs" / "heldout.parquet"), table, photos)
    return Finished(
        photos=photos,
        network=network,
        test=test,
        descriptions=Descriptions(
            collection=Collection(photos=photos, table=table),
            queries=test,
            folder=work / "model" / "descriptors",
            content=source["content"],
            image_size=network.config.image_size or 1024,
            device="cpu",
            workers=workers,
        ),
    )
