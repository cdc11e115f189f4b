"""Search with re-ranking: augmentation, query expansion, diffusion and geometry, alone or together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile, gettempdir

import numpy as np
from jaxtyping import Float
from pydantic import model_validator

from cnnimretrieval.search.diffusion import DiffusionConfig, diffuse
from cnnimretrieval.search.expansion import (
    AugmentationConfig,
    ExpansionConfig,
    augment,
    expand,
    expand_by,
)
from cnnimretrieval.search.photo_rows import ByPhoto
from cnnimretrieval.search.spatial import SpatialConfig, Verifier, rerank_spatially
from groundwork.files import reserve
from groundwork.settings import Settings
from groundwork.shards import Rows
from groundwork.top_k import Nearest, Ranking, search


class RerankConfig(Settings):
    """The steps between descriptors and ranking, in their order; None leaves a step out."""

    dba: AugmentationConfig | None = None
    qe: ExpansionConfig | None = None
    diffusion: DiffusionConfig | None = None
    spatial: SpatialConfig | None = None

    @model_validator(mode="after")
    def _verified_by_something(self) -> "RerankConfig":
        if self.qe is not None and self.qe.verified and self.spatial is None:
            raise ValueError(
                "qe.verified: expected a spatial step, which verifies, got none; add spatial, or leave out "
                "verified"
            )
        return self


@dataclass(frozen=True, kw_only=True, eq=False)
class Moved:
    """Queries and database after augmentation and expansion: ready to be searched or diffused."""

    queries: Float[np.ndarray, "q d"]
    database: Rows


def move(
    queries: Float[np.ndarray, "q d"],
    database: Rows,
    config: RerankConfig,
    nearest: Nearest | None = None,
    verifiers: Sequence[Verifier] = (),
) -> Moved:
    """Apply `dba`, then `qe` on what that gave, as far as `config` has them.

    An augmented database lies in a temporary file as long as it is used: memory stays bounded by a block.
    OSError when there is no room for it. `nearest` searches `database` as it came, as an index does.
    `verifiers`, one a query, choose what takes part in a `qe` that is to be verified: of the rows nearest to
    a query, as many as the spatial step has candidates, those that geometry proves to show the same.
    """
    if isinstance(nearest, ByPhoto):
        _require_photos(config)
    if config.dba is not None:
        # Without a name: the disk gives the room back when nobody holds the map any more.
        with TemporaryFile() as file:
            size = np.dtype(np.float32).itemsize * int(np.prod(database.shape))
            reserve(file.fileno(), size, Path(gettempdir()))
            augmented: np.ndarray = np.memmap(file, np.float32, "r+", shape=database.shape)
        database = augment(database, config.dba, augmented)
    near = None if config.dba else nearest
    if config.qe is not None and config.qe.verified and config.spatial is not None:
        first = _first(queries, database, config.spatial.candidates, near)
        chosen = [verifier.verified(rows) for verifier, rows in zip(verifiers, first.rows, strict=True)]
        queries = expand_by(queries, chosen, database, config.qe)
    elif config.qe is not None:
        queries = expand(queries, database, config.qe, near)
    return Moved(queries=queries, database=database)


def reranked(
    queries: Float[np.ndarray, "q d"],
    database: Rows,
    config: RerankConfig,
    top: int,
    nearest: Nearest | None = None,
    verifiers: Sequence[Verifier] = (),
) -> Iterator[Ranking]:
    """A ranking of at most `top` rows for each query, as (1, k), best first.

    Scores are inner products, of expanded descriptors where there are such, or diffused scores. `nearest`
    searches `database` in place of exact search, as an index does; an augmented database, and the graph of
    the diffusion, are searched exactly. With a `spatial` step, for which there is one of `verifiers` a query,
    the ranking is a `spatial.Reranked`. With `ByPhoto` as `nearest` photos are ranked, each by one row, and
    of a diffusion the graph is one of photos, too; ValueError for steps that cannot be.
    """
    if config.spatial is not None and len(verifiers) != len(queries):
        raise ValueError(
            f"re-ranking: expected a verifier for each of {len(queries)} queries, got {len(verifiers)}; make "
            "them by evidence.verifiers"
        )
    moved = move(queries, database, config, nearest, verifiers)
    depth = top if config.spatial is None else max(top, config.spatial.candidates)
    rankings = _rankings(moved, config, depth, None if config.dba else nearest)
    if config.spatial is not None:
        for ranking, verifier in zip(rankings, verifiers, strict=True):
            found = rerank_spatially(ranking, verifier)
            yield replace(
                found, rows=found.rows[:, :top], scores=found.scores[:, :top], inliers=found.inliers[:, :top]
            )
        return
    yield from rankings


def _rankings(moved: Moved, config: RerankConfig, top: int, nearest: Nearest | None) -> Iterator[Ranking]:
    if config.diffusion is not None:
        by_photo = nearest if isinstance(nearest, ByPhoto) else None
        for ranking in diffuse(moved.queries, moved.database, config.diffusion, by_photo):
            yield Ranking(rows=ranking.rows[:, :top], scores=ranking.scores[:, :top])
        return
    ranking = _first(moved.queries, moved.database, top, nearest)
    for rows, scores in zip(ranking.rows, ranking.scores, strict=True):
        yield Ranking(rows=rows[None], scores=scores[None])


def _first(queries: Float[np.ndarray, "q d"], database: Rows, top: int, nearest: Nearest | None) -> Ranking:
    return search(queries, database, top) if nearest is None else nearest(queries, top)


def _require_photos(config: RerankConfig) -> None:
    """ValueError for steps over a graph of all rows, in which those of one photo would be neighbours."""
    if config.dba is not None:
        raise ValueError(
            "dba: expected one descriptor a photo, got those of regions, too; leave it out, or extract "
            "without --regions"
        )
    if config.diffusion is not None and config.diffusion.truncation is None:
        raise ValueError(
            "diffusion.truncation: expected a number for descriptors of regions, got none; add "
            "diffusion:truncation=1000, or extract without --regions"
        )
