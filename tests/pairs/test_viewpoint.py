from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pairs.viewpoint
from pairs.viewpoint import pair_candidates
from sfm.model import Model


def two_cameras(depths_b, focal_b=1000.0) -> Model:
    """Camera b at the origin sees points of the z axis at `depths_b`, camera a stands 4 behind it.

    b is turned by 30 degrees about the axis, so that only depth and focal length differ.
    """
    c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
    k = len(depths_b)
    points = np.stack([np.zeros(k), np.zeros(k), np.asarray(depths_b, dtype=float)], axis=1)
    return Model(
        names=("a.jpg", "b.jpg"),
        rotations=np.stack([np.eye(3), [[c, -s, 0], [s, c, 0], [0, 0, 1]]]),
        translations=np.array([[0.0, 0, 4], [0, 0, 0]]),
        focal_px=np.array([1000.0, focal_b]),
        sizes=np.array([[640, 480], [640, 480]]),
        points=points,
        track_image=np.repeat([0, 1], k),
        track_point=np.tile(np.arange(k), 2),
        track_xy=np.full((2 * k, 2), 320.5),
        place=0,
    )


def naive_candidates(model: Model) -> dict[tuple[int, int], tuple[float, ...]]:
    """Loops and sets over the definition."""
    seen = [set(model.track_point[model.track_image == i].tolist()) for i in range(model.num_images)]
    found = {}
    for q in range(model.num_images):
        for p in range(model.num_images):
            shared = sorted(seen[q] & seen[p])
            if q == p or not shared:
                continue
            ratios, depths = [], []
            for point in shared:
                z = [model.rotations[i, 2] @ model.points[point] + model.translations[i, 2] for i in (q, p)]
                ratios.append((model.focal_px[q] / z[0]) / (model.focal_px[p] / z[1]))
                depths.append(np.sqrt(z[0] * z[1]))
            ratio = float(np.exp(np.median(np.log(ratios))))
            cosine = float(model.rotations[q, 2] @ model.rotations[p, 2])
            centres = [-model.rotations[i].T @ model.translations[i] for i in (q, p)]
            depth = np.exp(np.median(np.log(depths)))
            found[q, p] = (
                len(shared),
                len(shared) / len(seen[q]),
                max(ratio, 1 / ratio),
                float(np.degrees(np.arccos(cosine))),
                float(np.linalg.norm(centres[0] - centres[1]) / depth),
            )
    return found


def as_dict(candidates) -> dict[tuple[int, int], tuple[float, ...]]:
    rows = zip(
        candidates.shared_points,
        candidates.overlap,
        candidates.scale_change,
        candidates.angle_deg,
        candidates.baseline,
        strict=True,
    )
    return dict(
        zip(zip(candidates.query.tolist(), candidates.positive.tolist(), strict=True), rows, strict=True)
    )


@pytest.mark.parametrize("block_points", [1, 700, 1 << 18])
def test_geometry_of_all_pairs_is_that_of_a_naive_loop(ring_model, monkeypatch, block_points):
    monkeypatch.setattr(pairs.viewpoint, "_BLOCK_POINTS", block_points)
    model = ring_model(5)

    found, expected = as_dict(pair_candidates(model)), naive_candidates(model)

    assert list(found) == list(expected)
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-9)


def test_scale_change_by_hand():
    # a sees the points at depths 6, 7, 12 and b at 2, 3, 8 with twice the focal length: b's scales are
    # 2000/2, 2000/3, 2000/8 against 1000/6, 1000/7, 1000/12, so 6, 4.667 and 3 times larger.
    found = pair_candidates(two_cameras([2.0, 3.0, 8.0], focal_b=2000.0))
    np.testing.assert_allclose(found.scale_change, [14 / 3, 14 / 3], rtol=1e-12)
    np.testing.assert_allclose(found.angle_deg, [0, 0], atol=1e-6)
    np.testing.assert_allclose(found.baseline, 4 / np.sqrt(7 * 3), rtol=1e-12)


def test_of_an_even_number_of_points_neither_direction_is_favoured():
    found = pair_candidates(two_cameras([2.0, 8.0]))
    np.testing.assert_allclose(found.scale_change, np.sqrt((6 / 2) * (12 / 8)), rtol=1e-12)


def test_points_behind_a_camera_do_not_count_towards_scale():
    with_one_behind = pair_candidates(two_cameras([2.0, 3.0, 8.0, -1.0]))
    without = pair_candidates(two_cameras([2.0, 3.0, 8.0]))
    assert with_one_behind.shared_points.tolist() == [4, 4]
    np.testing.assert_allclose(with_one_behind.scale_change, without.scale_change)

    all_behind = pair_candidates(two_cameras([-1.0, -2.0]))
    assert all_behind.scale_change.tolist() == [np.inf, np.inf]
    assert all_behind.baseline.tolist() == [np.inf, np.inf]


def test_overlap_is_relative_to_the_query():
    model = two_cameras([2.0, 3.0, 8.0, 9.0])
    keep = np.array([True] * 4 + [True, False, False, False])
    model = replace(
        model,
        track_image=model.track_image[keep],
        track_point=model.track_point[keep],
        track_xy=model.track_xy[keep],
    )
    found = pair_candidates(model)
    assert found.query.tolist() == [0, 1]
    assert found.overlap.tolist() == [0.25, 1.0]


@settings(max_examples=20)
@given(
    log_scale=st.floats(-5, 5),
    shift=st.tuples(*[st.floats(-50, 50)] * 3),
    angles=st.tuples(*[st.floats(-np.pi, np.pi)] * 3),
)
def test_mining_is_unchanged_by_rotating_moving_and_rescaling_the_model(
    ring_model, moved, log_scale, shift, angles
):
    a, b, c = angles
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    model = ring_model(7, num_points=120)
    other = moved(model, float(np.exp(log_scale)), about_x @ about_y @ about_z, np.array(shift))

    before, after = as_dict(pair_candidates(model)), as_dict(pair_candidates(other))

    assert list(before) == list(after)
    np.testing.assert_allclose(list(after.values()), list(before.values()), rtol=1e-6, atol=1e-6)
