import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from sfm.pair_table import pair_table
from sfm.splitting import _best_cut, _bisect, _fiedler_vector, split, split_places


def _graph(edges: dict[tuple[int, int], float], num_rows: int) -> csr_array:
    dense = np.zeros((num_rows, num_rows))
    for (one, two), weight in edges.items():
        dense[one, two] = dense[two, one] = weight
    return csr_array(dense)


def _clusters(sizes: list[int], seed: int = 0) -> tuple[csr_array, np.ndarray]:
    """Dense groups in a row, rows shuffled, neighbours joined by a few weak edges; and each row's group."""
    rng = np.random.default_rng(seed)
    group = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    edges = {}
    for one in range(len(group)):
        for two in range(one):
            apart = abs(int(group[one]) - int(group[two]))
            if apart == 0 and rng.random() < 0.5:
                edges[two, one] = float(rng.integers(50, 200))
            elif apart == 1 and rng.random() < 0.03:
                edges[two, one] = float(rng.integers(20, 30))
    return _graph(edges, len(group)), group


def test_the_best_cut_agrees_with_the_definition() -> None:
    graph, _ = _clusters([9, 7], seed=3)
    order = np.random.default_rng(1).permutation(16)
    dense = graph.toarray()

    def ncut(left: int) -> float:
        inside, outside = order[:left], order[left:]
        cut = dense[np.ix_(inside, outside)].sum()
        return float(cut / dense[inside].sum() + cut / dense[outside].sum())

    best = min(map(ncut, range(4, 13)))
    good = [left for left in range(4, 13) if ncut(left) <= 1.01 * best]
    assert _best_cut(graph, order) == min(good, key=lambda left: abs(left - 8))


def test_the_fiedler_vector_solves_its_equation() -> None:
    graph, _ = _clusters([12, 9])
    vector = _fiedler_vector(graph)
    degree = graph.sum(axis=1)
    ratio = (degree * vector - graph @ vector) / (degree * vector)
    values = np.linalg.eigvalsh(np.eye(21) - graph.toarray() / np.sqrt(np.outer(degree, degree)))
    np.testing.assert_allclose(ratio, values[1], atol=1e-4)


def test_groups_are_cut_where_they_touch() -> None:
    graph, group = _clusters([30, 26, 34, 28])
    parts = split(graph, 40, 0)
    assert sorted(len(rows) for rows in parts) == [26, 28, 30, 34]
    assert all(len(set(group[rows])) == 1 for rows in parts)
    assert [int(rows[0]) for rows in parts] == sorted(int(rows[0]) for rows in parts)


def test_parts_cover_all_and_hang_together() -> None:
    rng = np.random.default_rng(5)
    # A long thin net with chance links: no natural groups.
    edges = {(row, row + 1): 30.0 for row in range(299)}
    edges |= {(row, row + int(step)): 25.0 for row, step in enumerate(rng.integers(2, 9, 290))}
    graph = _graph(edges, 300)
    bare = split(graph, 50, 0)
    assert np.sort(np.concatenate(bare)).tolist() == list(range(300))
    parts = split(graph, 50, 6)
    assert max(map(len, parts)) <= 50
    for rows in parts:
        assert (np.diff(rows) > 0).all()
        assert connected_components(graph[rows][:, rows])[0] == 1
    shared = np.bincount(np.concatenate(parts), minlength=300)
    assert shared.min() == 1
    assert 0 < (shared > 1).sum() <= 6 * len(parts)


def test_a_part_takes_over_its_strongest_neighbours() -> None:
    graph, group = _clusters([20, 20])
    dense = graph.toarray()
    for rows in split(graph, 24, 4):
        (home,) = {0, 1} - {1 if (group[rows] == 0).sum() > 10 else 0}
        inside = rows[group[rows] == home]
        outside = np.flatnonzero(group != home)
        expected = sorted(outside, key=lambda row, own=inside: (-dense[row, own].sum(), row))[:4]
        assert set(rows[group[rows] != home].tolist()) == set(expected)


def test_what_a_cut_leaves_loose_changes_sides() -> None:
    # Two dense groups, and a tail of one whose rows the order may put anywhere.
    graph, _ = _clusters([10, 10])
    dense = np.pad(graph.toarray(), (0, 6))
    for row in range(20, 26):
        dense[row - 1, row] = dense[row, row - 1] = 1.0
    on_left = _bisect(csr_array(dense))
    for side in (on_left, ~on_left):
        rows = np.flatnonzero(side)
        assert len(rows)
        assert connected_components(csr_array(dense[np.ix_(rows, rows)]))[0] == 1


@pytest.mark.parametrize("shape", ["chain", "star", "stars", "complete"])
def test_any_graph_is_split(shape: str) -> None:
    size = 90
    edges = {
        "chain": {(row, row + 1): 20.0 for row in range(size - 1)},
        "star": {(0, row): 20.0 for row in range(1, size)},
        "stars": {(row % 5, row): 20.0 for row in range(5, size)} | {(0, row): 20.0 for row in range(1, 5)},
        "complete": {(one, two): 20.0 for two in range(size) for one in range(two)},
    }[shape]
    graph = _graph(edges, size)
    parts = split(graph, 40, 0)
    assert np.sort(np.concatenate(parts)).tolist() == list(range(size))
    assert max(map(len, parts)) <= 40
    assert len(parts) <= 8
    again = split(graph, 40, 0)
    assert [rows.tolist() for rows in parts] == [rows.tolist() for rows in again]


def test_large_graphs_are_cut_as_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, _ = _clusters([60, 55])
    exact = _fiedler_vector(graph)
    monkeypatch.setattr("sfm.splitting._DENSE", 0)
    found = _fiedler_vector(graph)
    np.testing.assert_allclose(found / np.linalg.norm(found), exact / np.linalg.norm(exact), atol=1e-3)
    # A chain, whose eigenvalues lie too close for the solver.
    chain = _graph({(row, row + 1): 20.0 for row in range(1199)}, 1200)
    assert [len(rows) for rows in split(chain, 700, 0)] == [600, 600]


def test_only_large_places_are_split() -> None:
    graph, _ = _clusters([24, 22])
    edges = np.argwhere(np.triu(graph.toarray()))
    # The large place has the rows 3..48; rows 0..2 are a small place of number 1.
    ends = np.concatenate([edges + 3, [[0, 1], [1, 2]]]) + 1
    inliers = np.concatenate([graph.toarray()[edges[:, 0], edges[:, 1]], [30, 30]]).astype(int)
    pairs = pair_table(ends, inliers=inliers)
    place_of_image = np.array([1, 1, 1, *[0] * 46])
    table = split_places(pairs, place_of_image, np.arange(49), 30, 3)
    assert set(table["place"]) == {0}
    assert sorted(table["part"].unique()) == [0, 1]
    assert set(table["image_id"]) == set(range(4, 50))
    assert table.groupby("part").size().tolist() != []
    assert len(table) == 46 + 6
    assert len(split_places(pairs, place_of_image, np.arange(49), 46, 3)) == 0
    # The same images under other numbers are parted alike.
    rank = np.random.default_rng(5).permutation(49)
    renumbered = pairs.assign(
        image_id1=rank[pairs["image_id1"] - 1] + 1, image_id2=rank[pairs["image_id2"] - 1] + 1
    )
    other = split_places(renumbered, place_of_image[np.argsort(rank)], np.argsort(rank), 30, 3)
    assert other.assign(image_id=rank.argsort()[other["image_id"] - 1] + 1).equals(table)
