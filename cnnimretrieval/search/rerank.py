"""Search with re-ranking: database augmentation, query expansion and diffusion, alone or together."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile, gettempdir

import numpy as np
from jaxtyping import Float

from cnnimretrieval.search.diffusion import DiffusionConfig, diffuse
from cnnimretrieval.search.expansion import AugmentationConfig, ExpansionConfig, augment, expand
from groundwork.files import reserve
from groundwork.settings import Settings
from groundwork.shards import Rows
from groundwork.top_k import Nearest, Ranking, search


class RerankConfig(Settings):
    """The steps between descriptors and ranking, in their order; None leaves a step out."""

    dba: AugmentationConfig | None = None
    qe: ExpansionConfig | None = None
    diffusion: DiffusionConfig | None = None


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
) -> Moved:
    """Apply `dba`, then `qe` on what that gave, as far as `config` has them.

    An augmented database lies in a temporary file as long as it is used: memory stays bounded by a block.
    OSError when there is no room for it. `nearest` searches `database` as it came, as an index does.
    """
    if config.dba is not None:
        # Without a name: the disk gives the room back when nobody holds the map any more.
        with TemporaryFile() as file:
            size = np.dtype(np.float32).itemsize * int(np.prod(database.shape))
            reserve(file.fileno(), size, Path(gettempdir()))
            augmented: np.ndarray = np.memmap(file, np.float32, "r+", shape=database.shape)
        database = augment(database, config.dba, augmented)
    if config.qe is not None:
        queries = expand(queries, database, config.qe, None if config.dba else nearest)
    return Moved(queries=queries, database=database)


def reranked(
    queries: Float[np.ndarray, "q d"],
    database: Rows,
    config: RerankConfig,
    top: int,
    nearest: Nearest | None = None,
) -> Iterator[Ranking]:
    """A ranking of at most `top` rows for each query, as (1, k), best first.

    Scores are inner products, of expanded descriptors where there are such, or diffused scores. `nearest`
    searches `database` in place of exact search, as an index does; an augmented database, and the graph of
    the diffusion, are searched exactly.
    """
    moved = move(queries, database, config, nearest)
    if config.diffusion is not None:
        for ranking in diffuse(moved.queries, moved.database, config.diffusion):
            yield Ranking(rows=ranking.rows[:, :top], scores=ranking.scores[:, :top])
        return
    if nearest is None or config.dba is not None:
        ranking = search(moved.queries, moved.database, top)
    else:
        ranking = nearest(moved.queries, top)
    for rows, scores in zip(ranking.rows, ranking.scores, strict=True):
        yield Ranking(rows=rows[None], scores=scores[None])
