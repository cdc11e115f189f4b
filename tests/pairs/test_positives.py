import numpy as np

from pairs.image_pairs import Candidates
from pairs.positives import m3_relaxed_inliers
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
