import numpy as np
import pytest

from cnnimretrieval.search.expansion import ExpansionConfig, augment, expand
from groundwork.shards import Shards
from groundwork.top_k import nearest_others, search


@pytest.fixture(scope="module")
def expected(any_golden):
    with np.load(any_golden / "query_expansion.npz") as file:
        return dict(file)


def _config(expected, alpha) -> ExpansionConfig:
    return ExpansionConfig(neighbours=int(expected["n"]), alpha=float(alpha))


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-6)])
def test_expanded_queries_equal_the_reference(expected, dtype, tolerance):
    queries, database = expected["queries"].astype(dtype), expected["db"].astype(dtype)
    for alpha, result, top in zip(expected["alphas"], expected["qe"], expected["qe_top20"], strict=True):
        found = expand(queries, database, _config(expected, alpha))
        assert found.dtype == dtype
        np.testing.assert_allclose(found, result, rtol=0, atol=tolerance)
        np.testing.assert_array_equal(search(found, database, top.shape[1]).rows, top)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-6)])
def test_augmented_database_equals_the_reference(expected, dtype, tolerance):
    queries, database = expected["queries"].astype(dtype), expected["db"].astype(dtype)
    config = _config(expected, expected["alphas"][0])
    augmented = augment(database, config)
    np.testing.assert_allclose(augmented, expected["dba"], rtol=0, atol=tolerance)
    np.testing.assert_allclose(
        expand(queries, augmented, config), expected["qe_on_dba"], rtol=0, atol=tolerance
    )


@pytest.mark.parametrize("block", [7, 300])
def test_neighbours_leave_the_row_itself_out(expected, block):
    found = list(nearest_others(expected["db"], int(expected["n"]), query_block=block))
    assert [first for first, _ in found] == list(range(0, len(expected["db"]), block))
    rows = np.concatenate([nearest.rows for _, nearest in found])
    np.testing.assert_array_equal(rows, expected["dba_neighbours"])


def test_a_lone_row_has_no_neighbours():
    ((_, found),) = nearest_others(np.eye(4, dtype=np.float32)[:1], 5)
    assert found.rows.shape == (1, 0)
    np.testing.assert_array_equal(augment(np.eye(4)[:1], ExpansionConfig()), np.eye(4)[:1])


def test_the_database_may_come_in_shards_and_the_result_go_to_a_map(expected, tmp_path):
    database = expected["db"]
    out = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", np.float32, database.shape)
    config = _config(expected, expected["alphas"][0])
    augment(Shards([database[:130], database[130:]]), config, out)
    np.testing.assert_allclose(out, expected["dba"], rtol=0, atol=1e-6)


def test_opposite_rows_weigh_nothing():
    queries = np.array([[1.0, 0.0]])
    found = expand(queries, np.array([[-0.6, 0.8], [0.8, 0.6]]), ExpansionConfig(alpha=0.5))
    total = np.array([1.0, 0.0]) + 0.8**0.5 * np.array([0.8, 0.6])
    np.testing.assert_allclose(found[0], total / np.linalg.norm(total), atol=1e-15)


def test_no_neighbours_is_no_expansion():
    with pytest.raises(ValueError, match="greater than 0"):
        ExpansionConfig(neighbours=0)
