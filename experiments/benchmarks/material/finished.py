"""A finished run as benchmarks of search take it up: its network, held-out queries, descriptors and truth.

Positives are judged in two ways: by the tracks that the reconstruction found, which are made of SIFT and so
favour SIFT, and by place, where every photo of the query's place counts: more than geometry can see.
"""

from argparse import ArgumentParser
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.evaluation.benchmark import Benchmark, Query
from cnnimretrieval.evaluation.metrics import Relevance
from cnnimretrieval.evaluation.queries import QuerySet, Situation
from cnnimretrieval.local.pyramid import PyramidConfig, describe_locally
from cnnimretrieval.local.store import LocalMeta, LocalStore, read_local, write_local
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.networks.open import load
from cnnimretrieval.training.photos.descriptions import Descriptions, descriptions_of
from cnnimretrieval.whitening.apply import apply
from experiments.benchmarks.measuring.measure import arguments
from groundwork.keys import key_of
from groundwork.records import record_of
from pairs.heldout import Purpose


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """Some held-out queries of one kind, to be searched in a database.

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
    """A finished run; descriptors are taken from it where training left them.

    The database is that of a `situation`: the whole collection, or photos that nothing was fitted to.
    """

    photos: Path
    network: RetrievalNetwork
    test: QuerySet
    descriptions: Descriptions
    situation: Situation

    @cached_property
    def rows(self) -> Int[np.ndarray, " n"]:
        """The rows of the pair table that are searched, rising."""
        found = self.situation.database
        return np.arange(self.test.table.num_images) if found is None else found

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The photos of the database, in its order."""
        return tuple(self.test.table.names[row] for row in self.rows.tolist())

    def request(self, row: int) -> ImageRequest:
        """What a row of the database shows."""
        return self.descriptions.collection.whole(int(self.rows[row]))

    @cached_property
    def database(self) -> Float[np.ndarray, "n d"]:
        """Its descriptors."""
        return self._whitened(self.descriptions.database(self.network)[self.rows])

    def _whitened(self, vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        whitening = self.network.whitening_for((1.0,))
        return np.array(vectors) if whitening is None else apply(whitening, np.array(vectors))

    def asked(self, kind: str, every: int) -> Asked:
        """Each `every`-th query of a kind."""
        of_kind = [n for n in self.situation.queries.tolist() if self.test.queries[n].kind == kind]
        rows = np.array(of_kind[::every])
        by_tracks, by_place = [], []
        for number in rows.tolist():
            own = self.names.index(self.test.queries[number].query)
            near, far, junk = self.test.truth(number, self.situation)
            by_tracks.append(Relevance(positives=np.concatenate([near, far]), junk=junk))
            place = np.concatenate([near, far, junk])
            by_place.append(Relevance(positives=place[place != own], junk=np.array([own])))
        queries = [self.test.queries[number] for number in rows.tolist()]
        requests = [self.test.requests[number] for number in rows.tolist()]
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
            requests=requests,
            vectors=self._whitened(self.descriptions.of(self.network, f"{kind} queries", requests)),
            benchmark=benchmark,
            places=[query.place for query in queries],
        )

    def local_features(self, config: PyramidConfig, folder: Path) -> LocalStore:
        """The local features of the database, found now unless `folder` holds them."""
        maker = key_of(self.network.fingerprint(), config, self.names)
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


def search_arguments(description: str | None) -> ArgumentParser:
    """Those of a benchmark that searches a finished run by local features."""
    parser = arguments(description)
    parser.add_argument("work", type=Path, help="folder of a finished run")
    parser.add_argument("--out", type=Path, required=True, help="folder to keep local features in")
    parser.add_argument("--every", type=int, default=1, help="take each N-th query [%(default)s]")
    parser.add_argument("--unseen", action="store_true", help="search only what nothing was fitted to")
    parser.add_argument(
        "--purpose",
        choices=("report", "choose"),
        default="report",
        help="of the places asked for [%(default)s]",
    )
    parser.add_argument("--local-set", action="append", help="as of extract --local; may be given again")
    return parser


def finished(work: Path, workers: int, *, unseen: bool = False, purpose: Purpose = "report") -> Finished:
    """The run in a folder, to be searched as a whole or, `unseen`, without what it was fitted to."""
    network = load(work / "model")
    descriptions = descriptions_of(
        work / "pairs",
        work / "model" / "descriptors",
        network.config.image_size or 1024,
        workers=workers,
    )
    wanted = "unseen_database" if unseen else "own_collection"
    test = descriptions.queries
    return Finished(
        photos=descriptions.collection.photos,
        network=network,
        test=test,
        situation=next(one for one in test.situations(purpose) if one.name == wanted),
        descriptions=descriptions,
    )
