from dataclasses import replace

import numpy as np
import pytest

from cnnimretrieval.training.photos.sampling import (
    draw_clusters,
    draw_pairs,
    draw_pool,
    draw_unplaced,
    num_clusters,
)

RNG = np.random.default_rng
NONE, SOME = np.empty(0, np.int64), np.array([2, 7, 14])


def test_every_training_query_comes_as_often_as_any_other(collection):
    query, positive = draw_pairs(collection.table, 22, RNG(0))
    place = collection.table.place
    assert (place[query] == place[positive]).all()
    assert (query != positive).all()
    rows, counts = np.unique(query, return_counts=True)
    np.testing.assert_array_equal(rows, [0, 1, 2, 6, 7, 8, 12, 13, 14])
    assert set(counts) == {2, 3}


def test_positives_are_drawn_in_proportion_to_their_weight(collection):
    query, positive = draw_pairs(collection.table, 9 * 400, RNG(1))
    share_of_next = ((positive - query) % 3 == 1).mean()
    # Three to one, give or take three standard deviations of 3,600 draws.
    assert abs(share_of_next - 0.75) < 3 * (0.75 * 0.25 / 3600) ** 0.5


def test_pairs_have_their_turn_each_before_any_comes_again(collection):
    query, positive = draw_pairs(collection.table, 18 + 7, RNG(2), by="pair")
    train = collection.table.positives_of("train")
    every = sorted(zip(train.query.tolist(), train.positive.tolist(), strict=True))
    drawn = list(zip(query.tolist(), positive.tolist(), strict=True))
    assert sorted(drawn[:18]) == every
    assert len(set(drawn[18:])) == 7


def test_by_pair_a_query_comes_as_often_as_it_has_positives(collection):
    train = collection.table.positives_of("train")
    # Query 0 keeps both of its positives, all others one.
    some = train.take((train.query == 0) | (train.positive == (train.query // 3) * 3))
    table = replace(collection.table, positives=some)
    query, _ = draw_pairs(table, len(some), RNG(3), by="pair")
    np.testing.assert_array_equal(np.sort(query), np.sort(some.query))


def test_the_same_generator_draws_the_same_pairs(collection):
    first, again = (draw_pairs(collection.table, 30, RNG(5)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, draw_pairs(collection.table, 30, RNG(6)))


def test_without_training_pairs_it_says_what_to_do(collection):
    table = collection.table
    only_val = type(table)(
        **{
            name: getattr(table, name)
            for name in ("names", "cluster", "place", "is_val", "is_choosing", "sizes", "orientation")
        },
        positives=table.positives_of("val"),
    )
    with pytest.raises(ValueError, match=r"^training: ") as error:
        draw_pairs(only_val, 5, RNG(0))
    assert str(error.value) == (
        "training: expected queries with a positive in the training places, got none; "
        "add photos that overlap more, or lower pairs.min_overlap"
    )


@pytest.mark.parametrize(("allow_unplaced", "expected"), [(False, 9), (True, 10)])
def test_the_pool_holds_no_held_out_image(collection, allow_unplaced, expected):
    pool = draw_pool(collection.table, 100, allow_unplaced, RNG(0), first=NONE)
    assert len(pool) == expected
    assert not collection.table.is_val[pool].any()
    small = [draw_pool(collection.table, 4, allow_unplaced, RNG(0), first=first) for first in (NONE, SOME)]
    assert [len(pool) for pool in small] == [4, 4]
    assert set(SOME) <= set(small[1])
    assert not set(SOME) <= set(small[0])
    assert len(draw_pool(collection.table, 2, allow_unplaced, RNG(0), first=SOME)) == 2


def test_photos_that_matched_nothing_come_round_in_turn(collection):
    table = collection.table
    known = np.flatnonzero((table.place < 0) & ~table.is_val)
    assert len(known)
    drawn = draw_unplaced(table, 2 * len(known) + 1, RNG(0))
    assert sorted(np.bincount(drawn)[known].tolist()) == [2] * (len(known) - 1) + [3]
    assert set(drawn.tolist()) == set(known.tolist())
    assert not len(draw_unplaced(table, 0, RNG(0)))
    placed = replace(table, place=np.where(table.place < 0, 99, table.place))
    assert not len(draw_unplaced(placed, 5, RNG(0)))


def test_a_batch_has_a_query_of_each_cluster_and_different_positives_of_it(collection):
    table = collection.table
    drawn = draw_clusters(table, 10, 2, 3, RNG(0))
    assert drawn.shape == (5, 2, 3)
    known = set(zip(table.positives.query.tolist(), table.positives.positive.tolist(), strict=True))
    for batch in drawn:
        assert len(set(table.cluster[batch[:, 0]])) == 2
        for query, *positives in batch.tolist():
            assert len({query, *positives}) == 3
            assert all((query, positive) in known for positive in positives)
    assert not table.is_val[drawn].any()


def test_clusters_come_alike_and_positives_by_weight(collection):
    drawn = draw_clusters(collection.table, 3000, 3, 2, RNG(1))
    _, counts = np.unique(collection.table.cluster[drawn[..., 0]], return_counts=True)
    assert counts.tolist() == [1000, 1000, 1000]
    # The next view weighs three times the other one.
    query, positive = drawn.reshape(-1, 2).T
    assert abs(((positive - query) % 3 == 1).mean() - 0.75) < 3 * (0.75 * 0.25 / 3000) ** 0.5


def test_fewer_positives_give_smaller_groups(collection):
    assert num_clusters(collection.table) == 3
    drawn = draw_clusters(collection.table, 7, 3, 5, RNG(2))
    # Three training clusters of three images.
    assert drawn.shape == (3, 3, 5)
    assert (drawn[..., :3] >= 0).all()
    assert (drawn[..., 3:] == -1).all()


def test_images_of_a_clique_match_each_other(collection):
    table = collection.table
    # One cluster: a chain 0-1-2, in which 0 and 2 do not match, closed to a triangle by 6 and hung with 7.
    pairs = {(0, 1), (1, 2), (1, 6), (2, 6), (6, 7), (12, 13)}
    one_way = table.positives.take(np.zeros(len(pairs), np.int64))
    query, positive = np.array(sorted(pairs)).T
    positives = replace(one_way, query=query, positive=positive)
    joined = {
        name: np.where(getattr(table, name) == 2, 0, getattr(table, name)) for name in ("cluster", "place")
    }
    chain = replace(table, positives=positives, **joined)
    drawn = draw_clusters(chain, 400, 2, 4, RNG(3), cliques=True).reshape(-1, 4)
    for images in drawn.tolist():
        there = [image for image in images if image >= 0]
        assert images[: len(there)] == there
        assert all({(a, b), (b, a)} & pairs for number, a in enumerate(there) for b in there[:number])
    # As large as they can be, from the query's positives on.
    assert {tuple(sorted(images)) for images in drawn.tolist()} == {
        (-1, -1, 0, 1),
        (-1, 1, 2, 6),
        (-1, -1, 2, 6),
        (-1, -1, 6, 7),
        (-1, -1, 12, 13),
    }
    without = draw_clusters(chain, 400, 2, 4, RNG(3)).reshape(-1, 4)
    assert [1, 2, 6, -1] in without.tolist() or [1, 6, 2, -1] in without.tolist()


def test_one_cluster_is_not_enough(collection):
    table = collection.table
    one = replace(table, is_val=np.isin(table.place, (1, 2, 3, 4)))
    with pytest.raises(ValueError, match="training") as error:
        draw_clusters(one, 5, 2, 2, RNG(0))
    assert str(error.value) == (
        "training: expected at least 2 training clusters to sample from, got 1; "
        "add photos of other places, or set train.loop.sampling to tuples"
    )
