from dataclasses import replace

import numpy as np
import pytest

import pairs.frustum
from pairs.frustum import frustum_overlaps
from sfm.covisibility import visibility


def narrow(model):
    """With long lenses: pictures that hold a part of what the model has to show."""
    return replace(model, focal_px=4 * model.focal_px)


@pytest.mark.parametrize("block_points", [256, 1 << 18])
def test_shares_are_those_of_a_naive_loop(ring_model, monkeypatch, block_points):
    monkeypatch.setattr(pairs.frustum, "_BLOCK_POINTS", block_points)
    model = narrow(ring_model(5, num_points=200))
    query, other = np.divmod(np.arange(model.num_images**2), model.num_images)

    expected = []
    for q, o in zip(query, other, strict=True):
        points = model.points[np.unique(model.track_point[model.track_image == q])]
        seen = points @ model.rotations[o].T + model.translations[o]
        half, focal = model.sizes[o] / 2, model.focal_px[o]
        inside = [
            z > 0 and abs(focal * x / z) <= half[0] and abs(focal * y / z) <= half[1] for x, y, z in seen
        ]
        expected.append(np.mean(inside))

    found = frustum_overlaps(model, visibility(model), query, other)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert len(np.unique(found)) > 20


def test_a_sample_of_the_points_comes_near(ring_model, monkeypatch):
    model = narrow(ring_model(6, num_points=900))
    query, other = np.array([0, 4, 9]), np.array([1, 2, 5])
    whole = frustum_overlaps(model, visibility(model), query, other)
    monkeypatch.setattr(pairs.frustum, "_MAX_POINTS", 64)
    sampled = frustum_overlaps(model, visibility(model), query, other)
    assert not np.array_equal(whole, sampled)
    np.testing.assert_allclose(sampled, whole, atol=0.2)
