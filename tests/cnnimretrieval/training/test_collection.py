from dataclasses import replace

import numpy as np
import pytest

from cnnimretrieval.descriptors.images import open_request
from cnnimretrieval.training.photos.collection import QueryConfig
from pairs.shared_points import CELLS, points_inside

RNG = np.random.default_rng


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


def _with_points(collection, cells):
    """The collection with one pair, whose shared points lie in these cells of the query."""
    pairs = collection.table.positives
    pair = pairs.take(np.array([0]))
    counts = np.zeros((1, CELLS, CELLS), np.uint8)
    for row, column, number in cells:
        counts[0, row, column] = number
    return replace(collection, table=replace(collection.table, positives=pair, shared_points=counts)), pair


@pytest.mark.parametrize("crops_per_photo", [0, 40])
def test_a_detail_shows_what_its_positive_shows(collection, crops_per_photo):
    config = QueryConfig(distorted_share=1.0, max_side=0.5, crops_per_photo=crops_per_photo)
    there, pair = _with_points(collection, [(2, 2, 12), (2, 3, 3), (7, 7, 2)])
    query, positive = int(pair.query[0]), int(pair.positive[0])
    shared = [
        points_inside(
            there.table.shared_points[0], there.query(query, config, RNG(seed), positive).box, (64, 48)
        )
        for seed in range(10)
    ]
    assert min(shared) >= 15
    # Anything goes where the positive is not named, nothing is known of it, or points are not asked for.
    plain = [there.query(query, config, RNG(seed)) for seed in range(10)]
    assert [there.query(query, config, RNG(seed), positive + 1) for seed in range(10)] == plain
    free = config.model_copy(update={"min_shared_points": 0})
    assert [there.query(query, free, RNG(seed), positive) for seed in range(10)] == plain
    assert plain != [there.query(query, config, RNG(seed), positive) for seed in range(10)]


def test_a_detail_shows_as_much_as_it_can(collection):
    config = QueryConfig(distorted_share=1.0, min_side=0.35, max_side=0.4)
    # No detail of two fifths holds both corners; a pair that shares ten points is asked for no more.
    there, pair = _with_points(collection, [(0, 0, 10), (7, 7, 10)])
    query, positive = int(pair.query[0]), int(pair.positive[0])
    box = there.query(query, config, RNG(1), positive).box
    assert points_inside(there.table.shared_points[0], box, (64, 48)) == 10
    few, _ = _with_points(collection, [(3, 3, 4)])
    box = few.query(query, config, RNG(1), positive).box
    assert points_inside(few.table.shared_points[0], box, (64, 48)) == 4


def test_none_is_distorted_by_default(collection):
    assert collection.query(4, QueryConfig(), RNG(0)) == collection.whole(4)


def test_sides_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match=r"query: expected min_side <= max_side, got 0.8 and 0.5; swap them"):
        QueryConfig(min_side=0.8, max_side=0.5)


def test_a_photo_may_have_a_few_distortions_over_all_epochs(collection):
    few = QueryConfig(distorted_share=1.0, crops_per_photo=2)
    drawn = {
        row: [collection.distorted(row, few, np.random.default_rng(seed)) for seed in range(20)]
        for row in (3, 4)
    }
    for requests in drawn.values():
        assert len(set(requests)) == 2
    boxes = {request.box for requests in drawn.values() for request in requests}
    assert len(boxes) == 4
    # The settings decide how far they go, and without a bound each one differs.
    wild = few.model_copy(update={"max_rotation_deg": 45.0})
    assert collection.distorted(3, wild, np.random.default_rng(0)) not in drawn[3]
    new = few.model_copy(update={"crops_per_photo": 0})
    assert len({collection.distorted(3, new, np.random.default_rng(seed)) for seed in range(20)}) == 20
