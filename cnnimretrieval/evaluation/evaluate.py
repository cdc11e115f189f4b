"""Score a network on a benchmark: describe the photos and the queries, rank, compare."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from cnnimretrieval.descriptors.extract import ExtractConfig
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.store import DescriptorStore, StoreMeta, extract, read_store
from cnnimretrieval.evaluation.benchmark import Benchmark
from cnnimretrieval.evaluation.described import Located, locate, read_ready, ready_meta
from cnnimretrieval.evaluation.ranks import judged_ranks, spread_ranks
from cnnimretrieval.evaluation.scoring import RanksOf, Scored, score
from cnnimretrieval.local.extract import extract_local
from cnnimretrieval.local.pyramid import PyramidConfig
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.search.evidence import CACHE, Searched, local_features, verifiers
from cnnimretrieval.search.photo_rows import PhotoRows
from cnnimretrieval.search.rerank import RerankConfig
from cnnimretrieval.search.spatial import LOCAL, Verifier
from groundwork.arrays import starts_of
from groundwork.settings import Settings
from groundwork.shards import Rows, Selection, Shards


class EvaluationConfig(Settings):
    """How a benchmark is run; `extraction` None is that of the ready descriptors, else the network's."""

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
    executor: Executor | None = None,
    device: str = "cpu",
    workers: int = 0,
) -> Evaluation:
    """Rank the photos of `benchmark` and the distractors for each query, and score the rankings.

    The network's whitening is applied when it has one and `config.whiten` is left on. A query is cut out
    first and then scaled by the factor of its whole photo, as published. Descriptors that are not `ready` are
    made, and lie in a temporary folder meanwhile: memory does not grow with the database. Photos are only
    needed where they are to be described. Of ready photos with regions the best row is a photo's score.
    With `executor` each folder of distractors is read in a task of its own, and not here.

    ValueError for ready descriptors of another network, extraction or kind, FileNotFoundError for missing
    photos, OSError when a query cannot be read.
    """
    apart = ready.distractors if executor is not None else ()
    metas = {folder: ready_meta(folder, network, whiten=config.whiten) for folder in ready.folders}
    _require_plain(config, metas, apart)
    stores = {
        folder: read_ready(folder, network, whiten=config.whiten)
        for folder in ready.folders
        if folder not in apart
    }
    extraction = _extraction(config, metas) or ExtractConfig.meant_for(network.config)
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
        here = [folder for folder in ready.distractors if folder not in apart]
        database = Shards([photos.vectors, *(stores[folder].vectors for folder in here)])
        vectors = queries.vectors[queries.row_of]
        proving: list[Verifier] = []
        if config.rerank.spatial is not None:
            folder = ready.database or Path(scratch) / "database"
            if ready.database is None and config.rerank.spatial.features == LOCAL:
                shown, below = benchmark.database_requests(), benchmark.photos
                extract_local(network, shown, below, folder, PyramidConfig(), device=device, workers=workers)
            parts = [_Part(folder, photos.vectors)]
            parts += [_Part(path, stores[path].vectors) for path in here]
            proving = verifiers(
                config.rerank.spatial, network, requests, _searched(parts), device=device, workers=workers
            )
        photo_rows = _photo_rows(photos, [stores[folder] for folder in here])
        num_photos = len(photos.vectors) if photos.photo_rows is None else len(photos.photo_rows.photos)
        num_searched = len(database) if photo_rows is None else len(photo_rows.photos)
        num_searched += sum(metas[folder].described for folder in apart)
        ranks_of: RanksOf = judged_ranks
        if executor is not None:
            ranks_of = partial(spread_ranks, folders=apart, executor=executor)
        return Evaluation(
            benchmark=benchmark,
            config=config.model_copy(update={"extraction": extraction}),
            scored=score(
                benchmark, vectors, database, photos.row_of, config.rerank, proving, photo_rows, ranks_of
            ),
            num_distractors=num_searched - num_photos,
            unreadable=photos.unreadable,
        )


def _require_plain(config: EvaluationConfig, metas: Mapping[Path, StoreMeta], apart: Sequence[Path]) -> None:
    """ValueError for what takes all descriptors in one place, where some of them are elsewhere."""
    with_regions = [folder for folder, meta in metas.items() if meta.regions is not None]
    if apart and (config.rerank != RerankConfig() or with_regions):
        got = f"regions in {with_regions[0]}" if with_regions else "re-ranking"
        raise ValueError(
            f"evaluation: expected distractors that are searched apart to be ranked by inner products of one "
            f"descriptor a photo, got {got}; leave it out, or search them here"
        )


def _photo_rows(photos: Located, distractors: Sequence[DescriptorStore]) -> PhotoRows | None:
    """Which rows of the whole database are of one photo; None where each is of its own."""
    of_each = [photos.photo_rows or len(photos.vectors)]
    for store in distractors:
        has_regions = store.meta.regions is not None
        of_each.append(PhotoRows.of_names(store.images["name"]) if has_regions else len(store.vectors))
    return PhotoRows.below_each_other(of_each) if any(isinstance(one, PhotoRows) for one in of_each) else None


@dataclass(frozen=True, eq=False)
class _Part:
    """Rows of the database that lie in one folder of `extract`."""

    folder: Path
    vectors: Rows

    def row(self, place: int) -> int:
        """The row of the folder that is at a place among these."""
        return int(self.vectors.rows[place]) if isinstance(self.vectors, Selection) else place


def _searched(parts: Sequence[_Part]) -> Searched:
    stores = [read_store(part.folder) for part in parts]
    starts = starts_of([part.vectors for part in parts])

    def store_of(row: int) -> tuple[int, int]:
        number = int(np.searchsorted(starts, row, side="right")) - 1
        return number, parts[number].row(row - int(starts[number]))

    def request_of(row: int) -> ImageRequest:
        number, inside = store_of(row)
        return stores[number].photo_request(inside)

    return Searched(
        request_of=request_of,
        stores=lambda: [
            local_features(part.folder, store.images) for part, store in zip(parts, stores, strict=True)
        ],
        store_of=store_of,
        cache=parts[0].folder / CACHE,
    )


def _extraction(config: EvaluationConfig, metas: Mapping[Path, StoreMeta]) -> ExtractConfig | None:
    """How all are to be described; ValueError naming the first folder that was described in another way.

    None when neither the config nor a folder says it.
    """
    wanted = config.extraction
    for folder, meta in metas.items():
        given = meta.extraction
        wanted = wanted or given
        # How many photos went through the network together changes nothing.
        if given.model_copy(update={"batch_size": wanted.batch_size}) != wanted:
            raise ValueError(
                f"descriptors {folder}: expected {_described(wanted)}, got {_described(given)}; "
                "extract all descriptors of an evaluation in one way"
            )
    return wanted


def _described(extraction: ExtractConfig) -> str:
    return f"{extraction.model_dump(exclude={'batch_size'})}"
