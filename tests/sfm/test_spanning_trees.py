import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfm import spanning_trees
from sfm.spanning_trees import spanning_pairs


def _unit(seed: int, size: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(size, 5)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _plain(vectors: np.ndarray, rows: list[int], trees: int) -> list[list[int]]:
    """One tree after the other, by networkx."""
    graph: nx.Graph[int] = nx.Graph()
    for number, one in enumerate(rows):
        graph.add_node(one)
        for two in rows[number + 1 :]:
            graph.add_edge(one, two, weight=float(vectors[one] @ vectors[two]))
    found: set[tuple[int, int]] = set()
    for _ in range(trees):
        tree = nx.maximum_spanning_edges(graph, data=False)
        pairs = [(min(pair), max(pair)) for pair in tree]
        graph.remove_edges_from(pairs)
        found.update(pairs)
    return [list(pair) for pair in sorted(found)]


@given(seed=st.integers(0, 1000), size=st.integers(0, 40), trees=st.integers(0, 3))
def test_trees_are_those_of_a_plain_graph(seed: int, size: int, trees: int) -> None:
    vectors = _unit(seed, size)
    usable = np.random.default_rng(seed + 1).random(size) < 0.8
    expected = _plain(vectors, np.flatnonzero(usable).tolist(), trees)
    assert spanning_pairs(vectors, usable, trees).tolist() == expected


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, usable = _unit(7, 60), np.ones(60, dtype=np.bool_)
    whole = spanning_pairs(vectors, usable, 2)
    assert len(whole) == 2 * 59
    monkeypatch.setattr(spanning_trees, "_QUERY_BLOCK", 7)
    monkeypatch.setattr(spanning_trees, "_DATABASE_BLOCK", 11)
    np.testing.assert_array_equal(spanning_pairs(vectors, usable, 2), whole)


def test_groups_whose_nearest_are_their_own_are_connected() -> None:
    # Two clouds of equal photos: not one of them is near the other cloud.
    vectors = np.repeat(np.array([[1, 0], [0.6, 0.8]], dtype=np.float32), 10, axis=0)
    pairs = spanning_pairs(vectors, np.ones(20, dtype=np.bool_), 1)
    graph = nx.Graph(pairs.tolist())
    assert nx.is_connected(graph)
    assert sum((one < 10) != (two < 10) for one, two in pairs.tolist()) == 1
