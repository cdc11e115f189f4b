import dataclasses

import numpy as np
import pytest

from cnnimretrieval.descriptors.images import open_request
from cnnimretrieval.training.groups import Groups, load_groups
from cnnimretrieval.training.tuples import QueryConfig, assemble, draw_pairs, draw_pool
from pairs.negatives import HardNegatives

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
    table = dataclasses.replace(collection.table, positives=some)
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
            for name in ("names", "cluster", "place", "is_val", "sizes", "orientation")
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


def test_distorted_queries_are_details_and_photos_of_their_own(collection):
    config = QueryConfig(distorted_share=1.0, min_side=0.4, max_side=0.6, max_rotation_deg=5)
    for seed in range(20):
        request = collection.query(4, config, RNG(seed))
        x1, y1, x2, y2 = request.box
        assert 0 <= x1 < x2 <= 64
        assert 0 <= y1 < y2 <= 48
        assert 0.4 <= (x2 - x1) / 64 <= 0.6
        assert 0.4 <= (y2 - y1) / 48 <= 0.6
        assert abs(request.rotation_deg) <= 5
        assert request.as_photo
    assert collection.query(4, config, RNG(3)).box == collection.query(4, config, RNG(3)).box
    # A detail of 26 to 38 px is described at its own size although the photo of 64 px is scaled to 40.
    width, _ = open_request(request, 40).size
    assert width == round(x2) - round(x1)


def test_none_is_distorted_by_default(collection):
    assert collection.query(4, QueryConfig(), RNG(0)) == collection.whole(4)


def test_a_tuple_is_query_positive_and_the_negatives_there_are(collection):
    found = HardNegatives(
        pool_row=np.array([[2, 0, -1], [1, -1, -1]]),
        score=np.array([[0.9, 0.5, np.nan], [0.4, np.nan, np.nan]], np.float32),
        count=np.array([2, 1]),
    )
    query, positive, pool = np.array([0, 6]), np.array([1, 7]), np.array([2, 8, 12])
    requests = tuple(collection.whole(row) for row in query)
    tuples = assemble(query, positive, requests, pool, found)
    np.testing.assert_array_equal(tuples.negatives, [[12, 2, -1], [8, -1, -1]])
    assert tuples.shortage == 3
    groups = Groups(rows=np.column_stack([query, positive, tuples.negatives]), requests=requests)
    (loaded,) = load_groups(groups.take(np.array([1, 0])), collection, 64, together=2, workers=0)
    assert [len(group.pictures) for group in loaded] == [3, 4]
    assert [group.rows for group in loaded] == [[6, 7, 8], [0, 1, 12, 2]]
    assert loaded[0].pictures[0].shape == (3, 48, 64)


def test_sides_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match=r"query: expected min_side <= max_side, got 0.8 and 0.5; swap them"):
        QueryConfig(min_side=0.8, max_side=0.5)
