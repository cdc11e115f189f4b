import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnimretrieval.evaluation.metrics import (
    Relevance,
    found_places,
    places_without_junk,
)
from cnnimretrieval.evaluation.ranks import NEVER, judged_ranks, ranks_in, spread_ranks
from groundwork.executors import SerialExecutor
from groundwork.files import write_table
from groundwork.shards import Shards
from groundwork.top_k import search


@given(seed=st.integers(0, 500), n=st.integers(1, 60), block=st.integers(1, 70), tied=st.booleans())
def test_ranks_are_those_of_the_whole_ranking(seed, n, block, tied):
    generator = np.random.default_rng(seed)
    # Small integers are full of ties, which the row's number decides.
    values = generator.integers(-1, 2, (n + 3, 3)) if tied else generator.normal(size=(n + 3, 3))
    queries, database = values[:3].astype(np.float32), values[3:].astype(np.float32)
    judged = [generator.permutation(n)[: generator.integers(0, n + 1)] for _ in queries]
    whole = search(queries, database).rows
    expected = [np.argsort(row)[rows] for row, rows in zip(whole, judged, strict=True)]
    for ours, theirs, row, rows in zip(
        judged_ranks(queries, database, judged, block=block), expected, whole, judged, strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(ranks_in(row, rows), theirs)


def test_copies_in_another_block_stand_by_their_row():
    # 1,000 rows: the products of a full block and of the last one round differently in many libraries.
    generator = np.random.default_rng(3)
    database = generator.normal(size=(1000, 37)).astype(np.float32)
    database[[5, 401, 403]] = database[402]
    (ranks,) = judged_ranks(database[402:403], database, [np.array([402, 401, 5])], block=400)
    assert sorted(ranks.tolist()) == [0, 1, 2]
    assert ranks[2] == 0


def test_shards_rank_like_one_array():
    generator = np.random.default_rng(5)
    queries, database = generator.normal(size=(2, 4)), generator.normal(size=(50, 4))
    judged = [np.array([3, 49, 20]), np.array([0])]
    whole = judged_ranks(queries, database, judged, block=9)
    parts = judged_ranks(queries, Shards([database[:22], database[22:]]), judged, block=9)
    for ours, theirs in zip(parts, whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_ranks_among_folders_that_are_counted_apart_are_those_of_all(tmp_path):
    generator = np.random.default_rng(6)
    # Unit rows whose products are exact, with many ties, also between those that are judged and others.
    parts = [np.zeros((size, 32), np.float32) for size in (40, 30, 1, 25)]
    for row in (row for part in parts for row in part):
        row[generator.choice(32, 4, replace=False)] = generator.choice([-0.5, 0.5], 4)
    folders = [tmp_path / str(number) for number in range(3)]
    for folder, vectors in zip(folders, parts[1:], strict=True):
        folder.mkdir()
        np.save(folder / "vectors.npy", vectors)
        names = [str(row) for row in range(len(vectors))]
        write_table(folder / "images.parquet", pd.DataFrame({"name": names}))
    queries = parts[2].repeat(3, axis=0)
    queries[1:] = parts[3][:2]
    judged = [np.array([3, 39, 20]), np.arange(40), np.array([], np.int64)]
    whole = judged_ranks(queries, Shards(parts), judged)
    alone = judged_ranks(queries, parts[0], judged)
    apart = spread_ranks(queries, parts[0], judged, folders=folders, executor=SerialExecutor())
    for ours, theirs in zip(apart, whole, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (whole[1] != alone[1]).any()
    np.save(folders[2] / "vectors.npy", 2 * parts[3])
    with pytest.raises(ValueError, match=r"^descriptors .*2/vectors.npy: expected finite vectors of length"):
        spread_ranks(queries, parts[0], judged, folders=folders, executor=SerialExecutor())


def test_what_a_ranking_does_not_reach_is_never_found():
    assert ranks_in(np.array([4, 0, 7]), np.array([7, 5, 4, 9])).tolist() == [2, NEVER, 0, NEVER]
    assert ranks_in(np.array([], np.int64), np.array([7])).tolist() == [NEVER]


def test_places_without_junk_are_those_of_the_ranking_without_junk():
    generator = np.random.default_rng(8)
    for _ in range(20):
        ranking, judged = generator.permutation(30), generator.permutation(30)
        truth = Relevance(positives=judged[:7], junk=judged[7:16])
        places = places_without_junk(ranks_in(ranking, truth.positives), ranks_in(ranking, truth.junk))
        np.testing.assert_array_equal(places, found_places(ranking, truth))


def test_bad_input_is_named():
    vectors = np.ones((3, 4), np.float32)
    with pytest.raises(ValueError, match=r"^ranks: ") as error:
        judged_ranks(vectors[:1], vectors, [np.array([1, 7, 3])])
    assert str(error.value) == (
        "ranks: expected rows 0 to 2 for query 0, got 7; give the ground truth of this database"
    )
    with pytest.raises(ValueError, match=r"^ranks: ") as error:
        judged_ranks(vectors[:1, :2], vectors, [np.array([1])])
    assert str(error.value) == (
        "ranks: expected (1, 4) queries, one for each list of judged rows and as long as the database's "
        "descriptors, got (1, 2); describe both with the same network and whitening"
    )
