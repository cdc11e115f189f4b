from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from pairs.image_pairs import Candidates, merge_candidates
from pairs.nearest_cameras import near_camera_pairs
from pairs.positives import (
    STRATEGIES,
    PositivesConfig,
    StrategyName,
    among,
    m1_nearest_descriptor,
    m2_most_shared_points,
    m3_relaxed_inliers,
    weighted_by_overlap,
    within_geometry,
)
from pairs.viewpoint import pair_candidates


def candidates(overlap, scale_change) -> Candidates:
    n = len(overlap)
    return Candidates(
        query=np.zeros(n, dtype=int),
        positive=np.arange(1, n + 1),
        shared_points=np.arange(1, n + 1),
        overlap=np.array(overlap),
        scale_change=np.array(scale_change),
        angle_deg=np.linspace(3, 50, n),
        baseline=np.full(n, 0.5),
        frustum_overlap=np.full(n, 0.7),
    )


def test_thresholds_are_strict_for_overlap_and_inclusive_for_scale():
    given = candidates([0.2, 0.2001, 0.9, 0.1, 0.5], [1.0, 1.5, 1.5001, 9.0, np.inf])

    selection = m3_relaxed_inliers(given, 0.2, 1.5)

    assert selection.positives.positive.tolist() == [2]
    assert selection.positives.shared_points.tolist() == [2]
    assert selection.positives.strategy.tolist() == ["m3"]
    assert selection.positives.weight.tolist() == [1.0]
    assert selection.dropped == {"pair: overlap at most 0.2": 2, "pair: scale change above 1.5": 2}


def test_m3_on_a_ring_is_that_of_a_naive_loop(ring_model):
    model = ring_model(11)
    seen = [set(model.track_point[model.track_image == i].tolist()) for i in range(model.num_images)]
    depth = np.einsum("ni,mi->nm", model.rotations[:, 2], model.points) + model.translations[:, 2:]
    expected = []
    for q in range(model.num_images):
        for p in range(model.num_images):
            shared = sorted(seen[q] & seen[p])
            if q == p or len(shared) <= 0.2 * len(seen[q]):
                continue
            ratio = np.median(
                [(model.focal_px[q] / depth[q, x]) / (model.focal_px[p] / depth[p, x]) for x in shared]
            )
            if max(ratio, 1 / ratio) <= 1.5:
                expected.append((q, p))

    all_pairs = pair_candidates(model)
    selection = m3_relaxed_inliers(all_pairs, 0.2, 1.5)

    chosen = selection.positives
    assert list(zip(chosen.query, chosen.positive, strict=True)) == expected
    assert all(count > 0 for count in selection.dropped.values())
    assert len(chosen) + sum(selection.dropped.values()) == len(all_pairs)


def centre_distances(model) -> np.ndarray:
    centres = -np.einsum("nij,ni->nj", model.rotations, model.translations)
    return np.linalg.norm(centres[:, None] - centres[None], axis=2)


def near_pairs(model, count) -> Candidates:
    near = near_camera_pairs(model, count)
    return among(merge_candidates([pair_candidates(model), near]), near)


def test_m1_and_m2_on_a_ring_are_those_of_a_naive_loop(ring_model):
    model, k = ring_model(11), 2
    seen = [set(model.track_point[model.track_image == i].tolist()) for i in range(model.num_images)]
    apart = centre_distances(model)
    vectors = np.random.default_rng(3).normal(size=(model.num_images, 5))
    nearest, most = [], []
    for q in range(model.num_images):
        cameras = sorted((i for i in range(model.num_images) if i != q), key=lambda i: apart[q, i])[:k]
        nearest.append((q, min(cameras, key=lambda i: np.linalg.norm(vectors[q] - vectors[i]))))
        best = max(sorted(cameras), key=lambda i: len(seen[q] & seen[i]))
        if seen[q] & seen[best]:
            most.append((q, best))

    near = near_pairs(model, k)
    distance = np.linalg.norm(vectors[near.query] - vectors[near.positive], axis=1)
    m1, m2 = m1_nearest_descriptor(near, distance), m2_most_shared_points(near)

    assert list(zip(m1.positives.query, m1.positives.positive, strict=True)) == nearest
    assert list(zip(m2.positives.query, m2.positives.positive, strict=True)) == most
    assert set(m1.positives.strategy) == {"m1"}
    assert set(m2.positives.strategy) == {"m2"}
    assert m1.dropped == {"pair: not the nearest descriptor": 14 * k - 14}
    assert m2.dropped == {"pair: not the most shared points": 14 * k - len(most)}
    # The rule differs from taking all the model: some nearest camera is not the one that shares most.
    everywhere = m2_most_shared_points(pair_candidates(model))
    assert everywhere.positives.positive.tolist() != m2.positives.positive.tolist()


def test_m1_takes_an_image_that_shares_no_point_and_leaves_out_unknown_distances():
    overlap = [0.0, 0.3, 0.4]
    given = replace(candidates(overlap, [np.inf, 1.1, 1.2]), shared_points=np.array([0, 5, 7]))
    assert m1_nearest_descriptor(given, np.array([0.2, 0.5, np.inf])).positives.positive.tolist() == [1]
    assert m1_nearest_descriptor(given, np.array([np.inf, 0.5, 0.4])).positives.positive.tolist() == [3]
    assert len(m1_nearest_descriptor(given, np.full(3, np.inf)).positives) == 0
    assert m2_most_shared_points(given).positives.positive.tolist() == [3]


def test_weighted_takes_all_in_proportion_to_overlap():
    selection = weighted_by_overlap(candidates([0.1, 0.25, 0.9], [9.0, 1.5, np.inf]))
    assert selection.positives.positive.tolist() == [1, 2, 3]
    assert selection.positives.weight.tolist() == [0.1, 0.25, 0.9]
    assert selection.positives.strategy.tolist() == ["weighted"] * 3
    assert selection.dropped == {}


def test_constraints_on_the_cameras_drop_and_count_but_by_default_nothing():
    given = replace(
        candidates([0.5] * 5, [1.1] * 5),
        angle_deg=np.array([10.0, 50, 20, 20, 20]),
        baseline=np.array([0.3, 0.3, 0.05, 0.8, 0.3]),
        frustum_overlap=np.array([0.6, 0.6, 0.6, 0.6, 0.2]),
    )
    kept, dropped = within_geometry(given, PositivesConfig())
    assert len(kept) == 5
    assert dropped == {}
    constrained = PositivesConfig(
        max_angle_deg=40, min_baseline=0.1, max_baseline=0.7, min_frustum_overlap=0.5
    )
    kept, dropped = within_geometry(given, constrained)
    assert kept.positive.tolist() == [1]
    assert dropped == {
        "pair: angle above 40": 1,
        "pair: baseline below 0.1": 1,
        "pair: baseline above 0.7": 1,
        "pair: frustum overlap below 0.5": 1,
    }


def test_baselines_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match="pairs") as error:
        PositivesConfig(min_baseline=0.5, max_baseline=0.2)
    assert "pairs: expected min_baseline <= max_baseline, got 0.5 and 0.2; swap them" in str(error.value)


def test_every_name_has_its_strategy():
    assert list(STRATEGIES) == list(get_args(StrategyName))
