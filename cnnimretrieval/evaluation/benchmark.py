"""Score a network on judged queries: describe the photos and the queries, rank, compare."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cnnimretrieval.descriptors.extract import ExtractConfig, Failure, describe
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.whitening import apply
from cnnimretrieval.evaluation.groundtruth import JudgedQuery, relevance_of
from cnnimretrieval.evaluation.metrics import Scores, score_rankings
from cnnimretrieval.networks.network import RetrievalNetwork
from cnnimretrieval.search.exact import search


@dataclass(frozen=True, kw_only=True, eq=False)
class BenchmarkResult:
    """The scores, and the database photos that could not be read and so were not searched."""

    scores: Scores
    database_size: int
    failures: tuple[Failure, ...]


def evaluate(
    network: RetrievalNetwork,
    queries: Sequence[JudgedQuery],
    database: Sequence[ImageRequest],
    photos: Path,
    config: ExtractConfig,
    *,
    whiten: bool = True,
    device: str = "cpu",
    workers: int = 0,
) -> BenchmarkResult:
    """Rank `database`, photos below `photos`, for each query, and score the rankings.

    The network's whitening is applied when it has one and `whiten` is left on. A query is cut out first and
    then scaled by the factor of its whole photo, as published. ValueError when the ground truth names a photo
    that is not in the database or cannot be read, OSError when a query cannot be read.
    """
    requests = [ImageRequest(path=photos / query.query, box=query.box) for query in queries]
    described = describe(network, database, config, device=device, workers=workers)
    vectors = describe(network, requests, config, device=device, workers=workers).require_all()
    names = [database[row].path.relative_to(photos).as_posix() for row in described.positions]
    relevance = relevance_of(queries, names)
    rows = described.vectors
    whitening = network.whitening_for(config.scales) if whiten else None
    if whitening is not None:
        rows, vectors = apply(whitening, rows), apply(whitening, vectors)
    ranking = search(vectors, rows)
    return BenchmarkResult(
        scores=score_rankings(ranking.rows, relevance), database_size=len(names), failures=described.failures
    )
