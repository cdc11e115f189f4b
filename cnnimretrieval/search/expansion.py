"""Alpha query expansion and database augmentation: descriptors move towards their nearest neighbours."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field

from groundwork.settings import Settings
from groundwork.shards import Rows
from groundwork.top_k import Nearest, nearest_others, search

# Neighbours gathered at a time, in numbers: 64 MiB of float32.
_GATHERED = 1 << 24


class MovingConfig(Settings):
    """How far a descriptor moves; n = 50 and alpha = 3 are those of Radenovic et al., TPAMI 2019."""

    neighbours: int = Field(default=50, gt=0, description="nearest database rows that take part")
    alpha: float = Field(
        default=3.0, ge=0.0, description="exponent of the score that weighs a row; 0 is a plain mean"
    )


class ExpansionConfig(MovingConfig):
    """Of queries, by whatever is near or by what geometry verifies."""

    verified: bool | None = Field(
        default=None, description="only rows that the spatial step verifies take part"
    )


class AugmentationConfig(MovingConfig):
    """The same for the database, whose rows have fewer photos of their own object than a query expects."""

    neighbours: int = Field(default=20, gt=0, description="nearest other rows that take part")


def expand(
    queries: Float[np.ndarray, "q d"],
    database: Rows,
    config: MovingConfig,
    nearest: Nearest | None = None,
) -> Float[np.ndarray, "q d"]:
    """Alpha query expansion: unit queries q' to search with again, in the dtype of `queries`.

    q' = (q + sum_j max(q.x_j, 0)^alpha x_j) / norm over the n rows x_j nearest to q. The query has weight 1.
    Chum et al., ICCV 2007 (alpha = 0); Radenovic et al., TPAMI 2019. Negative scores weigh nothing, so that
    a fractional alpha is defined. `nearest` finds those rows in place of exact search.
    """
    near = nearest or (lambda queries, top: search(queries, database, top))
    return _towards(queries, near(queries, config.neighbours).rows, database, config.alpha)


def expand_by(
    queries: Float[np.ndarray, "q d"],
    chosen: Sequence[Int[np.ndarray, " n"]],
    database: Rows,
    config: MovingConfig,
) -> Float[np.ndarray, "q d"]:
    """As `expand`, by the rows that were chosen for each query, of which the first `neighbours` take part.

    A query for which nothing was chosen stays as it is.
    """
    moved = np.array(queries)
    for index, rows in enumerate(chosen):
        if len(rows):
            taking_part = rows[None, : config.neighbours]
            moved[index] = _towards(queries[index : index + 1], taking_part, database, config.alpha)[0]
    return moved


def augment(
    database: Rows, config: MovingConfig, out: Float[np.ndarray, "n d"] | None = None
) -> Float[np.ndarray, "n d"]:
    """Database augmentation: every row expanded by its n nearest other rows, as `expand` does for queries.

    Turcot and Lowe, ICCV Workshops 2009; weights as in `expand`. `out`, a memory map for instance, takes the
    result; all rows are expanded by the rows as they came, so it must not be `database` itself.
    """
    if out is None:
        dtype = database.dtype if isinstance(database, np.ndarray) else np.float32
        out = np.empty(database.shape, dtype)
    for first, nearest in nearest_others(database, config.neighbours):
        rows = slice(first, first + len(nearest.rows))
        out[rows] = _towards(database[rows], nearest.rows, database, config.alpha)
    return out


def _towards(
    vectors: Float[np.ndarray, "q d"], nearest: Int[np.ndarray, "q n"], database: Rows, alpha: float
) -> Float[np.ndarray, "q d"]:
    moved = np.empty_like(vectors)
    step = max(1, _GATHERED // max(1, nearest.shape[1] * vectors.shape[1]))
    for start in range(0, len(vectors), step):
        some = vectors[start : start + step]
        rows = database[nearest[start : start + step]]
        weights = np.einsum("qd,qnd->qn", some, rows).clip(min=0.0) ** alpha
        total = some + np.einsum("qn,qnd->qd", weights, rows)
        moved[start : start + step] = total / np.linalg.norm(total, axis=1, keepdims=True)
    return moved
