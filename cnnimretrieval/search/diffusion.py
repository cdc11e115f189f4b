"""Diffusion: scores spread over the graph of the database's nearest neighbours, along its manifolds."""

from collections.abc import Iterator

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from jaxtyping import Float, Int
from pydantic import Field
from scipy.sparse import csr_array

from groundwork.settings import Settings
from groundwork.shards import Rows
from groundwork.top_k import Nearest, Ranking, nearest_others, search


class DiffusionConfig(Settings):
    """The settings of Iscen et al., CVPR 2017, for one descriptor a photo."""

    neighbours: int = Field(default=50, gt=0, description="nearest rows of a row that it may be joined to")
    query_neighbours: int = Field(default=10, gt=0, description="rows that the query sends its score to")
    gamma: float = Field(default=3.0, gt=0.0, description="exponent of the scores that weigh the graph")
    alpha: float = Field(default=0.99, ge=0.0, lt=1.0, description="share that goes on along the graph")
    iterations: int = Field(default=20, gt=0, description="of the conjugate gradient, at most")
    tolerance: float = Field(
        default=1e-6, gt=0.0, description="residual, in units of the query's, to stop at"
    )
    truncation: int | None = Field(
        default=None,
        gt=1,
        description="rank only so many best rows of each query, over a graph of their own; for databases too "
        "large for one graph",
    )


def diffuse(
    queries: Float[np.ndarray, "q d"],
    database: Rows,
    config: DiffusionConfig,
    nearest: Nearest | None = None,
) -> Iterator[Ranking]:
    """A ranking for each query, (1, n) rows and diffused scores, best first; equal scores by rising row.

    The scores f solve (I - alpha S) f = y: S is the graph of `transition` and y holds, at the query's nearest
    rows, their scores to the power gamma. Iscen et al., CVPR 2017. Rows that no path joins to those score 0
    and keep the order of their inner products. One query is solved at a time: memory is that of the graph
    and of one row of scores.

    With `truncation` = T the ranking ends after the T rows of highest inner product, and the graph is built
    among those alone for each query, where the paper cuts it out of the whole database's: a row's neighbours
    are then its nearest within the T. `nearest` finds those T in place of exact search; without `truncation`
    it is not asked.
    """
    top = config.truncation
    first_of = nearest or (lambda query, top: search(query, database, top))
    if top is None:
        whole = transition(database, config)
        for query in queries:
            yield _diffused(search(query[None], database), whole, config)
        return
    for query in queries:
        first = first_of(query[None], top)
        among = np.sort(first.rows[0])
        found = _diffused(_renumbered(first, among), transition(database[among], config), config)
        yield Ranking(rows=among[found.rows], scores=found.scores)


def transition(database: Rows, config: DiffusionConfig) -> csr_array:
    """S = D^-1/2 A D^-1/2, symmetric, (n, n) sparse, of the mutual nearest neighbours.

    A_ij = max(x_i.x_j, 0)^gamma where i and j are each among the k nearest of the other, else 0; D holds the
    row sums of A. A row without such a neighbour has an empty row in S. Its eigenvalues lie in [-1, 1].
    """
    n = len(database)
    found = [(nearest.rows, nearest.scores) for _, nearest in nearest_others(database, config.neighbours)]
    columns = np.concatenate([rows for rows, _ in found])
    weights = np.concatenate([scores for _, scores in found]).astype(np.float64).clip(min=0.0) ** config.gamma
    starts = np.arange(n + 1) * columns.shape[1]
    directed = csr_array((weights.ravel(), columns.ravel(), starts), shape=(n, n))
    # The two directions of an edge may differ by rounding; an edge in one direction only has 0 as the other.
    mutual = csr_array(directed.minimum(directed.T))
    mutual.eliminate_zeros()
    degree = np.asarray(mutual.sum(axis=1)).ravel()
    scale = scipy.sparse.diags_array(np.divide(1.0, np.sqrt(degree), where=degree > 0.0, out=np.zeros(n)))
    return csr_array(scale @ mutual @ scale)


def solve(graph: csr_array, sources: csr_array, config: DiffusionConfig) -> Float[np.ndarray, " n"]:
    """The f of (I - alpha S) f = y, float64, by conjugate gradient; `sources` is y, (1, n) sparse.

    I - alpha S is positive definite, for alpha < 1 and the eigenvalues of S reach 1 at most. As in the paper
    the iteration stops after a fixed number of steps, converged or not: the order settles early.
    """
    system = scipy.sparse.eye_array(graph.shape[0], format="csr") - config.alpha * graph
    y = sources.toarray().ravel()
    found, _ = scipy.sparse.linalg.cg(system, y, rtol=config.tolerance, maxiter=config.iterations)
    return np.asarray(found)


def _diffused(first: Ranking, graph: csr_array, config: DiffusionConfig) -> Ranking:
    """`first`, the ranking of one query over all rows of `graph`, in the order of diffused scores."""
    k = min(config.query_neighbours, first.rows.shape[1])
    near: Int[np.ndarray, " k"] = first.rows[0, :k]
    weights = first.scores[0, :k].astype(np.float64).clip(min=0.0) ** config.gamma
    sources = csr_array((weights, near, np.array([0, k])), shape=(1, graph.shape[0]))
    scores = solve(graph, sources, config)[first.rows[0]]
    # Stable: what the diffusion did not tell apart keeps its order.
    order = np.argsort(-scores, kind="stable")
    return Ranking(rows=first.rows[:, order], scores=scores[None, order].astype(np.float32))


def _renumbered(ranking: Ranking, among: Int[np.ndarray, " t"]) -> Ranking:
    return Ranking(rows=np.searchsorted(among, ranking.rows), scores=ranking.scores)
