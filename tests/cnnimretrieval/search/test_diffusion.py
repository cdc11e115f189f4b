import numpy as np
import pytest
from scipy.sparse import csr_array

from cnnimretrieval.search.diffusion import DiffusionConfig, diffuse, solve, transition
from groundwork.shards import Shards
from groundwork.top_k import search

EXACT = {"iterations": 500, "tolerance": 1e-12}


def _unit(generator, shape) -> np.ndarray:
    vectors = generator.normal(size=shape)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def database() -> np.ndarray:
    return _unit(np.random.default_rng(6), (90, 6))


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    return _unit(np.random.default_rng(7), (3, 6))


def _dense_transition(database, config):
    """Edge by edge."""
    n = len(database)
    scores = (database @ database.T).astype(np.float64)
    np.fill_diagonal(scores, -np.inf)
    near = [set(np.argsort(-row)[: config.neighbours].tolist()) for row in scores]
    affinity = np.zeros((n, n))
    for i in range(n):
        for j in near[i]:
            if i in near[j]:
                affinity[i, j] = max(scores[i, j], 0.0) ** config.gamma
    root = np.sqrt(affinity.sum(axis=1))
    root[root == 0.0] = np.inf
    return affinity / root[:, None] / root


def _dense_scores(query, database, graph, config):
    scores = (database @ query).astype(np.float64)
    y = np.zeros(len(database))
    for row in np.argsort(-scores)[: config.query_neighbours]:
        y[row] = max(scores[row], 0.0) ** config.gamma
    return np.linalg.solve(np.eye(len(database)) - config.alpha * graph, y)


def test_graph_edge_by_edge(database):
    config = DiffusionConfig(neighbours=4)
    graph = transition(database, config)
    np.testing.assert_allclose(graph.toarray(), _dense_transition(database, config), atol=1e-6)
    assert graph.nnz < 4 * 90
    np.testing.assert_allclose(graph.toarray(), graph.toarray().T, atol=1e-12)
    assert np.abs(np.linalg.eigvalsh(graph.toarray())).max() <= 1.0 + 1e-9


def test_scores_equal_a_dense_solution(database, queries):
    config = DiffusionConfig(neighbours=5, query_neighbours=3, alpha=0.9, **EXACT)
    graph = _dense_transition(database, config)
    for query, ranking in zip(queries, diffuse(queries, database, config), strict=True):
        expected = _dense_scores(query, database, graph, config)
        np.testing.assert_allclose(ranking.scores[0], expected[ranking.rows[0]], atol=1e-6)
        assert sorted(ranking.rows[0].tolist()) == list(range(90))
        assert (np.diff(ranking.scores[0]) <= 0.0).all()


def test_truncated_is_the_same_on_the_best_rows_alone(database, queries):
    config = DiffusionConfig(neighbours=5, query_neighbours=3, truncation=40, **EXACT)
    for query, ranking in zip(queries, diffuse(queries, database, config), strict=True):
        best = search(query[None], database, 40).rows[0]
        expected = _dense_scores(query, database[best], _dense_transition(database[best], config), config)
        assert ranking.rows.shape == (1, 40)
        assert sorted(ranking.rows[0].tolist()) == sorted(best.tolist())
        found = dict(zip(ranking.rows[0].tolist(), ranking.scores[0].tolist(), strict=True))
        np.testing.assert_allclose([found[row] for row in best.tolist()], expected, atol=1e-6)


def test_a_path_of_similar_photos_leads_to_what_does_not_look_alike():
    # An arc of views 10 degrees apart, and one row nearer to the query than the arc's end yet off it.
    angles = np.radians(np.arange(0, 91, 10))
    arc = np.stack([np.cos(angles), np.sin(angles), np.zeros(10)], axis=1)
    lone = np.array([[np.cos(1.3), 0.0, np.sin(1.3)]])
    database = np.concatenate([arc, lone]).astype(np.float32)
    query = np.array([[1.0, 0.0, 0.0]], np.float32)
    config = DiffusionConfig(neighbours=2, query_neighbours=1)
    (found,) = diffuse(query, database, config)
    assert search(query, database).rows[0].tolist().index(10) < 10
    assert found.rows[0, -1] == 10
    assert found.scores[0, -1] == 0.0


def test_what_is_not_reached_keeps_its_order(database, queries):
    config = DiffusionConfig(neighbours=1, query_neighbours=1)
    (found,) = diffuse(queries[:1], database, config)
    untouched = found.rows[0][found.scores[0] == 0.0]
    first = search(queries[:1], database).rows[0]
    np.testing.assert_array_equal(untouched, first[np.isin(first, untouched)])
    assert len(untouched) > 40


def test_no_edges_leave_the_source():
    sources = csr_array(np.array([[0.0, 0.25, 0.0]]))
    np.testing.assert_allclose(solve(csr_array((3, 3)), sources, DiffusionConfig()), [0.0, 0.25, 0.0])


def test_shards_diffuse_like_one_array(database, queries):
    shards = Shards([database[:31], database[31:]])
    for truncation in (None, 30):
        config = DiffusionConfig(neighbours=5, truncation=truncation)
        for ours, theirs in zip(
            diffuse(queries, shards, config), diffuse(queries, database, config), strict=True
        ):
            np.testing.assert_array_equal(ours.rows, theirs.rows)
