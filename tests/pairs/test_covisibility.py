import numpy as np

from pairs.covisibility import covisible_pairs, visibility


def test_shared_points_are_those_of_a_naive_loop(ring_model):
    model = ring_model(3)
    seen = [set(model.track_point[model.track_image == i].tolist()) for i in range(model.num_images)]

    pairs = covisible_pairs(visibility(model))

    expected = [
        (i, j, len(seen[i] & seen[j]))
        for i in range(model.num_images)
        for j in range(i + 1, model.num_images)
        if seen[i] & seen[j]
    ]
    assert list(zip(pairs.first, pairs.second, pairs.shared_points, strict=True)) == expected
    assert 0 < len(expected) < model.num_images * (model.num_images - 1) // 2


def test_a_point_observed_twice_by_an_image_counts_once(ring_model):
    model = ring_model(1)
    assert model.num_observations > visibility(model).nnz
    assert set(visibility(model).data.tolist()) == {1}


def test_a_model_in_which_nothing_is_shared_has_no_pairs(ring_model):
    model = ring_model(1, names=("only.jpg",))
    pairs = covisible_pairs(visibility(model))
    assert len(pairs.first) == len(pairs.shared_points) == 0
    assert pairs.first.dtype == np.int64
