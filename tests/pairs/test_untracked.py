import numpy as np
import pytest

from pairs.image_pairs import Candidates
from pairs.positives import PositivesConfig, chains_of_relaxed_inliers, overlapping_frusta
from pairs.untracked import chained, frusta_overlap


def _near(pairs: dict[tuple[int, int], tuple[float, float, float]], scale_change: float = 1.2) -> Candidates:
    """(query, positive) -> overlap, frustum overlap, angle."""
    query, positive = np.array(list(pairs), dtype=np.int64).reshape(-1, 2).T
    overlap, frustum, angle = np.array(list(pairs.values())).reshape(-1, 3).T
    return Candidates(
        query=query,
        positive=positive,
        shared_points=(overlap * 100).astype(np.int64),
        overlap=overlap,
        scale_change=np.where(overlap > 0, scale_change, np.inf),
        angle_deg=angle,
        baseline=np.full(len(query), np.inf),
        frustum_overlap=frustum,
    )


def _random(seed: int, images: int) -> Candidates:
    rng = np.random.default_rng(seed)
    pairs = [(q, p) for q in range(images) for p in range(images) if q != p and rng.random() < 0.5]
    return _near({pair: (rng.random() / 2, rng.random(), 90 * rng.random()) for pair in pairs})


def _named(pairs: Candidates, mask: np.ndarray) -> set[tuple[int, int]]:
    return set(zip(pairs.query[mask].tolist(), pairs.positive[mask].tolist(), strict=True))


def test_frusta_overlap_both_ways_from_one_side() -> None:
    near = _near(
        {
            (0, 1): (0, 0.3, 30), (1, 0): (0, 0.9, 30),
            (0, 2): (0, 0.9, 30), (2, 0): (0, 0.2, 30),
            (1, 2): (0, 0.9, 46), (2, 1): (0, 0.9, 46),
            (3, 0): (0, 0.9, 10),
        }
    )  # fmt: skip
    selection = overlapping_frusta(near, 0.2, 45)
    assert selection.positives.query.tolist() == [0, 1]
    assert selection.positives.weight.tolist() == [0.3, 0.9]
    assert selection.positives.shared_points.tolist() == [0, 0]
    assert set(selection.positives.strategy) == {"frustum"}
    assert selection.dropped == {"pair: frusta that overlap too little, or views too far apart": 5}


def test_chains_lead_by_a_third_image_to_what_is_in_view() -> None:
    near = _near(
        {
            (0, 1): (0.3, 0.5, 5), (1, 2): (0.3, 0.5, 5), (2, 3): (0.3, 0.5, 5),
            (0, 2): (0, 0.1, 20), (1, 3): (0, 0, 20), (0, 3): (0, 0.5, 20), (3, 0): (0, 0.5, 20),
        }
    )  # fmt: skip
    selection = chains_of_relaxed_inliers(near, 0.2, 1.5)
    found = set(zip(selection.positives.query.tolist(), selection.positives.positive.tolist(), strict=True))
    # Image 3 sees nothing of 1; from 0 to 3 it takes three links.
    assert found == {(0, 1), (1, 2), (2, 3), (0, 2)}
    assert selection.dropped == {"pair: no chain of relaxed inliers": 3}
    assert set(selection.positives.strategy) == {"chain"}


@pytest.mark.parametrize("seed", range(5))
def test_both_are_those_of_a_loop(seed: int) -> None:
    near = _random(seed, 12)
    overlap = {
        (q, p): share for q, p, share in zip(near.query, near.positive, near.frustum_overlap, strict=True)
    }
    frusta = {
        (int(q), int(p))
        for (q, p), angle in zip(overlap, near.angle_deg, strict=True)
        if angle <= 45 and min(overlap[q, p], overlap.get((p, q), 0)) > 0.2
    }
    assert frusta
    assert _named(near, frusta_overlap(near, 0.2, 45)) == frusta
    links = near.overlap > 0.35
    linked = _named(near, links)
    expected = {
        (int(q), int(p))
        for q, p in overlap
        if (q, p) in linked or any((q, x) in linked and (x, p) in linked for x in range(12))
    }
    assert len(expected) > len(linked)
    assert _named(near, chained(near, links)) == expected


def test_no_pairs_are_none() -> None:
    none = _near({})
    assert not len(frusta_overlap(none, 0.2, 45))
    assert not len(chained(none, np.empty(0, dtype=np.bool_)))
    assert PositivesConfig(strategy="chain").max_frustum_angle_deg == 45
