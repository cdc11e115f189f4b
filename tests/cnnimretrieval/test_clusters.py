from dataclasses import replace

import numpy as np
import pytest

from cnnimretrieval.training.clusters import draw_clusters

RNG = np.random.default_rng


def test_a_batch_has_a_query_of_each_cluster_and_different_positives_of_it(collection):
    table = collection.table
    drawn = draw_clusters(table, 10, 2, 3, RNG(0))
    assert drawn.clusters == 2
    assert drawn.rows.shape == (10, 3)
    known = set(zip(table.positives.query.tolist(), table.positives.positive.tolist(), strict=True))
    for batch in drawn.rows.reshape(-1, 2, 3):
        assert len(set(table.cluster[batch[:, 0]])) == 2
        for query, *positives in batch.tolist():
            assert len({query, *positives}) == 3
            assert all((query, positive) in known for positive in positives)
    assert not table.is_val[drawn.rows].any()


def test_clusters_come_alike_and_positives_by_weight(collection):
    drawn = draw_clusters(collection.table, 3000, 3, 2, RNG(1))
    _, counts = np.unique(collection.table.cluster[drawn.rows[:, 0]], return_counts=True)
    assert counts.tolist() == [1000, 1000, 1000]
    # The next view weighs three times the other one.
    query, positive = drawn.rows.T
    assert abs(((positive - query) % 3 == 1).mean() - 0.75) < 3 * (0.75 * 0.25 / 3000) ** 0.5


def test_fewer_positives_or_clusters_give_smaller_groups_and_batches(collection):
    drawn = draw_clusters(collection.table, 7, 8, 5, RNG(2))
    # Three training clusters of three images.
    assert drawn.clusters == 3
    assert drawn.rows.shape == (9, 5)
    assert (drawn.rows[:, :3] >= 0).all()
    assert (drawn.rows[:, 3:] == -1).all()


def test_one_cluster_is_not_enough(collection):
    table = collection.table
    one = replace(table, is_val=np.isin(table.place, (1, 2, 3, 4)))
    with pytest.raises(ValueError, match="training") as error:
        draw_clusters(one, 5, 2, 2, RNG(0))
    assert str(error.value) == (
        "training: expected at least 2 training clusters to sample from, got 1; "
        "add photos of other places, or set train.loop.sampling to tuples"
    )
