"""Score a network on a benchmark: describe the photos and the queries, rank, compare."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from cnnimretrieval.descriptors.extract import ExtractConfig
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.store import DescriptorStore, extract
from cnnimretrieval.evaluation.benchmark import Benchmark
from cnnimretrieval.evaluation.described import Located, locate, read_ready
from cnnimretrieval.evaluation.scoring import Scored, score
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.search.evidence import CACHE, verifiers
from cnnimretrieval.search.rerank import RerankConfig
from cnnimretrieval.search.spatial import Verifier
from groundwork.settings import Settings
from groundwork.shards import Shards


class EvaluationConfig(Settings):
    """How a benchmark is run; `extraction` None is that of the ready descriptors, else the default."""

    extraction: ExtractConfig | None = None
    whiten: bool = True
    uncropped: bool = False
    rerank: RerankConfig = RerankConfig()


@dataclass(frozen=True, kw_only=True)
class ReadyDescriptors:
    """Folders of `extract` to be used instead of photos: of the database, of the queries, of distractors."""

    database: Path | None = None
    queries: Path | None = None
    distractors: tuple[Path, ...] = ()

    @property
    def folders(self) -> tuple[Path, ...]:
        """All that are given."""
        given = (self.database, self.queries, *self.distractors)
        return tuple(folder for folder in given if folder is not None)


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """What a network reached; `config` is the one that was used.

    Photos of the database that were `unreadable`, by name with the reason, were not searched: as positives
    they count as never found.
    """

    benchmark: Benchmark
    config: EvaluationConfig
    scored: Scored
    num_distractors: int
    unreadable: Mapping[str, str]

    @property
    def uncropped(self) -> bool:
        """Whether queries with a box were searched with as whole photos."""
        return self.config.uncropped and any(query.box is not None for query in self.benchmark.queries)


def evaluate(
    network: RetrievalNetwork,
    benchmark: Benchmark,
    config: EvaluationConfig,
    ready: ReadyDescriptors = ReadyDescriptors(),
    *,
    device: str = "cpu",
    workers: int = 0,
) -> Evaluation:
    """Rank the photos of `benchmark` and the distractors for each query, and score the rankings.

    The network's whitening is applied when it has one and `config.whiten` is left on. A query is cut out
    first and then scaled by the factor of its whole photo, as published. Descriptors that are not `ready` are
    made, and lie in a temporary folder meanwhile: memory does not grow with the database. Photos are only
    needed where they are to be described.

    ValueError for ready descriptors of another network, extraction or kind, FileNotFoundError for missing
    photos, OSError when a query cannot be read.
    """
    stores = {folder: read_ready(folder, network, whiten=config.whiten) for folder in ready.folders}
    extraction = _extraction(config, stores)
    benchmark.require_photos(database=ready.database is None, queries=ready.queries is None)
    described = partial(
        extract, network, config=extraction, whiten=config.whiten, device=device, workers=workers
    )
    with TemporaryDirectory() as scratch:

        def located(requests: Sequence[ImageRequest], photos: Path, ready: Path | None, kind: str) -> Located:
            if ready is not None:
                return locate(stores[ready], requests, photos, str(ready))
            return locate(described(requests, photos, Path(scratch) / kind), requests, photos, kind)

        requests = benchmark.query_requests(uncropped=config.uncropped)
        queries = located(requests, benchmark.query_photos, ready.queries, "queries")
        for name, reason in queries.unreadable.items():
            raise OSError(
                f"query {benchmark.query_photos / name}: expected a photo that can be described, "
                f"got '{reason}'; mend the photo or its box"
            )
        photos = located(benchmark.database_requests(), benchmark.photos, ready.database, "database")
        distractors = [stores[folder].vectors for folder in ready.distractors]
        database = Shards([photos.vectors, *distractors])
        vectors = queries.vectors[queries.row_of]
        proving: list[Verifier] = []
        if config.rerank.spatial is not None:
            shown = _shown(benchmark, photos, [stores[folder] for folder in ready.distractors])
            kept = next(iter(ready.folders[:1]), Path(scratch)) / CACHE
            proving = verifiers(config.rerank.spatial, requests, shown, cache=kept, workers=workers)
        return Evaluation(
            benchmark=benchmark,
            config=config.model_copy(update={"extraction": extraction}),
            scored=score(benchmark, vectors, database, photos.row_of, config.rerank, proving),
            num_distractors=len(database) - len(photos.vectors),
            unreadable=photos.unreadable,
        )


def _shown(
    benchmark: Benchmark, photos: Located, distractors: Sequence[DescriptorStore]
) -> Callable[[int], ImageRequest]:
    """What a row of the database shows, which is that of the benchmark's photos and of the distractors."""
    found = photos.row_of >= 0
    described = np.flatnonzero(found)
    photo_of: list[int] = described[np.argsort(photos.row_of[found])].tolist()
    requests = benchmark.database_requests()
    starts = np.cumsum([len(photo_of), *(len(store.vectors) for store in distractors)])

    def shown(row: int) -> ImageRequest:
        part = int(np.searchsorted(starts, row, side="right"))
        if part == 0:
            return requests[photo_of[row]]
        return distractors[part - 1].request(row - int(starts[part - 1]))

    return shown


def _extraction(config: EvaluationConfig, stores: Mapping[Path, DescriptorStore]) -> ExtractConfig:
    """How all are described; ValueError naming the first folder that was described in another way."""
    wanted = config.extraction
    for folder, store in stores.items():
        given = store.meta.extraction
        wanted = wanted or given
        # How many photos went through the network together changes nothing.
        if given.model_copy(update={"batch_size": wanted.batch_size}) != wanted:
            raise ValueError(
                f"descriptors {folder}: expected {_described(wanted)}, got {_described(given)}; "
                "extract all descriptors of an evaluation in one way"
            )
    return wanted or ExtractConfig()


def _described(extraction: ExtractConfig) -> str:
    return f"{extraction.model_dump(exclude={'batch_size'})}"
