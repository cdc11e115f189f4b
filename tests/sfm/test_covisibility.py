import numpy as np

from sfm.covisibility import covisible_pairs, visibility
from sfm.model import Model


def random_model(images: int, points: int, observations: int) -> Model:
    rng = np.random.default_rng(5)
    return Model(
        names=tuple(f"{n:02}.jpg" for n in range(images)),
        rotations=np.tile(np.eye(3), (images, 1, 1)),
        translations=np.zeros((images, 3)),
        focal_px=np.full(images, 500.0),
        sizes=np.tile([640, 480], (images, 1)),
        points=rng.uniform(size=(points, 3)),
        track_image=rng.integers(images, size=observations),
        track_point=rng.integers(points, size=observations),
        track_xy=rng.uniform(0, 480, (observations, 2)),
        place=0,
    )


def test_shared_points_are_those_of_a_naive_loop() -> None:
    model = random_model(9, 40, 70)
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


def test_a_point_observed_twice_by_an_image_counts_once() -> None:
    model = random_model(3, 5, 30)
    assert model.num_observations > visibility(model).nnz
    assert set(visibility(model).data.tolist()) == {1}


def test_a_model_in_which_nothing_is_shared_has_no_pairs() -> None:
    pairs = covisible_pairs(visibility(random_model(1, 5, 5)))
    assert len(pairs.first) == len(pairs.shared_points) == 0
    assert pairs.first.dtype == np.int64
