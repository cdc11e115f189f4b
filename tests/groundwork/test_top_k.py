import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundwork.shards import Selection, Shards
from groundwork.top_k import nearest_others, search


def _naive(queries, database, top):
    """Sort everything by falling score, then by rising row."""
    scores = queries @ database.T
    rows = np.array([np.lexsort((np.arange(len(database)), -row))[:top] for row in scores])
    return rows, np.take_along_axis(scores, rows, axis=1)


@given(
    seed=st.integers(0, 500),
    n=st.integers(1, 60),
    top=st.integers(1, 70),
    query_block=st.integers(1, 5),
    database_block=st.integers(1, 40),
)
def test_blocks_give_what_sorting_everything_gives(seed, n, top, query_block, database_block):
    generator = np.random.default_rng(seed)
    # Small integers: exact in float32, full of ties, of both signs and with zeros.
    queries = generator.integers(-2, 3, (4, 3)).astype(np.float32)
    database = generator.integers(-2, 3, (n, 3)).astype(np.float32)
    found = search(queries, database, top, query_block=query_block, database_block=database_block)
    rows, scores = _naive(queries, database, top)
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_array_equal(found.scores, scores)


@pytest.mark.parametrize("num_queries", [1, 12, 13])
def test_few_queries_meet_a_block_in_pieces_and_are_ranked_as_many_are(num_queries):
    generator = np.random.default_rng(1)
    # Six of these rows are taken at a time: more do not fit into a core's cache.
    queries = generator.integers(-2, 3, (num_queries, 100_000)).astype(np.float32)
    database = generator.integers(-2, 3, (23, 100_000)).astype(np.float32)
    found = search(queries, database, 7)
    rows, scores = _naive(queries, database, 7)
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_array_equal(found.scores, scores)


def test_permuting_the_database_permutes_the_ranking():
    generator = np.random.default_rng(2)
    queries, database = generator.normal(size=(3, 8)), generator.normal(size=(50, 8))
    order = generator.permutation(50)
    found, permuted = search(queries, database), search(queries, database[order])
    np.testing.assert_array_equal(order[permuted.rows], found.rows)


def test_the_database_may_be_a_memory_map(tmp_path):
    database = np.random.default_rng(3).normal(size=(40, 5)).astype(np.float32)
    np.save(tmp_path / "vectors.npy", database)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    found = search(database[:6], mapped, 4, database_block=7)
    np.testing.assert_array_equal(found.rows, search(database[:6], database, 4).rows)
    assert found.rows.dtype == np.int64
    assert found.scores.dtype == np.float32


def test_bad_input_is_named():
    vectors = np.ones((3, 4), np.float32)
    with pytest.raises(ValueError, match=r"of one length d, got \(3, 4\) and \(3, 3\); describe both"):
        search(vectors, vectors[:, :3])
    with pytest.raises(ValueError, match=r"^search: expected top of at least 1, got 0; "):
        search(vectors, vectors, 0)
    vectors[1, 2] = np.nan
    with pytest.raises(
        ValueError, match=r"expected finite descriptors, got NaN or infinity in database rows 0 to 2"
    ):
        search(np.ones((1, 4), np.float32), vectors)


def test_nothing_to_search_is_told_and_no_query_has_no_ranking():
    rows = np.eye(3, dtype=np.float32)
    with pytest.raises(ValueError, match=r"^search: ") as error:
        search(rows, rows[:0])
    assert str(error.value) == (
        "search: expected a database of at least one row, got none; describe photos first"
    )
    assert search(rows[:0], rows, 2).rows.shape == (0, 2)


def _naive_others(database, k):
    """Sort all other rows by falling score, then by rising row."""
    scores, rows = database @ database.T, np.arange(len(database))
    others = [rows[rows != row] for row in rows]
    return [other[np.lexsort((other, -scores[row, other]))][:k] for row, other in enumerate(others)]


@given(
    seed=st.integers(0, 500),
    n=st.integers(2, 40),
    k=st.integers(1, 50),
    query_block=st.integers(1, 12),
    database_block=st.integers(1, 50),
    kind=st.sampled_from(["plain", "selected", "shards"]),
)
def test_neighbours_in_a_collection_are_those_of_sorting_all_others(
    seed, n, k, query_block, database_block, kind
):
    generator = np.random.default_rng(seed)
    values = generator.integers(-2, 3, (n, 3)).astype(np.float32)
    order = generator.permutation(n)
    database = {
        "plain": values,
        "selected": Selection(values[np.argsort(order)], order),
        "shards": Shards([values[: n // 2], values[n // 2 :]]),
    }[kind]
    found = nearest_others(database, k, query_block=query_block, database_block=database_block)
    rows = []
    for first, ranking in found:
        assert first == len(rows)
        rows += list(ranking.rows)
    np.testing.assert_array_equal(rows, _naive_others(values, k))


def test_copies_are_neighbours_of_each_other():
    database = np.eye(3, dtype=np.float32)[[0, 0, 1, 0, 0]]
    ((_, found),) = nearest_others(database, 2)
    # Equal scores by rising row, the row itself left out also where two copies stand before it.
    assert found.rows.tolist() == [[1, 3], [0, 3], [0, 1], [0, 1], [0, 1]]
