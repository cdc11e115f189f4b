import numpy as np
import pytest

from pairs.image_pairs import Candidates, Positives, merge_candidates


def candidates(query, positive, shared_points, angle_deg=10.0) -> Candidates:
    n = len(query)
    return Candidates(
        query=np.array(query, dtype=int),
        positive=np.array(positive, dtype=int),
        shared_points=np.array(shared_points, dtype=int),
        overlap=np.full(n, 0.4),
        scale_change=np.full(n, 1.2),
        angle_deg=np.full(n, angle_deg),
        baseline=np.full(n, 0.3),
        frustum_overlap=np.full(n, 0.7),
    )


def test_a_pair_of_two_models_keeps_the_geometry_with_more_shared_points():
    merged = merge_candidates(
        [
            candidates([0, 1, 5, 6], [1, 0, 6, 5], [30, 30, 8, 8], angle_deg=1.0),
            candidates([0, 1, 5, 6, 0], [1, 0, 6, 5, 2], [29, 29, 9, 9, 4], angle_deg=2.0),
            candidates([5, 6], [6, 5], [9, 9], angle_deg=3.0),
        ]
    )
    assert merged.query.tolist() == [0, 0, 1, 5, 6]
    assert merged.positive.tolist() == [1, 2, 0, 6, 5]
    assert merged.shared_points.tolist() == [30, 4, 30, 9, 9]
    assert merged.angle_deg.tolist() == [1, 2, 1, 2, 2]


def test_nothing_merges_to_nothing():
    assert len(merge_candidates([])) == 0


def test_take_and_renumber():
    pairs = candidates([0, 1, 2], [1, 2, 0], [7, 8, 9]).renumbered(np.array([10, 20, 30]))
    assert pairs.take(np.array([2, 0])).query.tolist() == [30, 10]
    assert pairs.take(pairs.shared_points > 7).positive.tolist() == [30, 10]


def test_arrays_cannot_be_written():
    with pytest.raises(ValueError, match="read-only"):
        candidates([0], [1], [7]).overlap[0] = 0.9


def test_values_out_of_range_are_named():
    with pytest.raises(
        ValueError, match=r"^image pairs: expected two images, got another value in row 1; mine again$"
    ):
        candidates([0, 3], [1, 3], [7, 7])
    with pytest.raises(ValueError, match="expected shared_points >= 0, got another value in row 0"):
        candidates([0], [1], [-1])
    with pytest.raises(ValueError, match=r"expected angle_deg in \[0, 180\]"):
        candidates([0], [1], [7], angle_deg=181.0)
    pairs = candidates([0], [1], [7])
    with pytest.raises(ValueError, match=r"^positives: expected weights > 0, got 0; leave such pairs out$"):
        Positives(
            query=pairs.query,
            positive=pairs.positive,
            shared_points=pairs.shared_points,
            overlap=pairs.overlap,
            scale_change=pairs.scale_change,
            angle_deg=pairs.angle_deg,
            strategy=np.array(["m3"]),
            weight=np.zeros(1),
        )
