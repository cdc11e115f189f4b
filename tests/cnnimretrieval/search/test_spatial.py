"""Re-ranking by geometry: what comes first, what keeps its place, junk, and expansion by what is verified."""

from pathlib import Path

import numpy as np
import pytest

from cnnimretrieval.evaluation.benchmark import Benchmark, Query
from cnnimretrieval.evaluation.metrics import Relevance, score_rankings
from cnnimretrieval.evaluation.scoring import score
from cnnimretrieval.local.features import LocalFeatures, no_features
from cnnimretrieval.search.diffusion import DiffusionConfig
from cnnimretrieval.search.expansion import ExpansionConfig
from cnnimretrieval.search.rerank import RerankConfig, reranked
from cnnimretrieval.search.spatial import UNSEEN, SpatialConfig, Verifier, spatial_order
from groundwork.top_k import search

NUM_PHOTOS = 50
SHARED = 60


def _unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class _Scene:
    """A query whose points photo r shows `shared[r]` of, moved; the rest of its points are its own."""

    def __init__(self, shared):
        self.shared, self.asked = shared, []
        generator = np.random.default_rng(5)
        self.points = generator.uniform(0, (1000, 700), (SHARED, 2))
        self.descriptors = _unit(generator.normal(size=(SHARED, 24)))

    def query(self):
        return _features(self.points, self.descriptors)

    def of_rows(self, rows):
        self.asked += list(rows)
        return [self._photo(row) for row in rows]

    def _photo(self, row):
        if self.shared[row] < 0:
            return no_features(0)
        generator = np.random.default_rng(100 + row)
        own = np.arange(SHARED) >= self.shared[row]
        points = self.points @ [[0.8, 0.2], [-0.1, 0.9]] + (30.0, 12.0)
        points[own] = generator.uniform(0, (1000, 700), (own.sum(), 2))
        descriptors = self.descriptors.copy()
        descriptors[own] = _unit(generator.normal(size=(own.sum(), 24)))
        return _features(points, descriptors)


def _features(points, descriptors):
    return LocalFeatures(
        keypoints=points.astype(np.float32),
        scales=np.ones(len(points), np.float32),
        scores=np.arange(len(points), 0, -1).astype(np.float32),
        descriptors=descriptors,
    )


@pytest.fixture
def scene():
    """Every fifth photo shows the query's place, each with another share of its points; some show nothing."""
    shared = np.where(np.arange(NUM_PHOTOS) % 5 == 2, 20 + np.arange(NUM_PHOTOS) % 40, 0)
    shared[7], shared[11] = 9, -1  # too little to be believed; a photo that could not be read
    return _Scene(shared)


@pytest.fixture
def vectors():
    generator = np.random.default_rng(14)
    return _unit(generator.normal(size=(1, 8))), _unit(generator.normal(size=(NUM_PHOTOS, 8)))


def _verifier(scene, config):
    return Verifier(scene.query, scene.of_rows, config)


def test_order_by_hand():
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5], np.float32)
    inliers = np.array([0, 30, 11, 200, 30])
    config = SpatialConfig(min_inliers=12, features="sift")
    # 11 inliers are none; of two with 30 the higher score comes first.
    assert spatial_order(scores, inliers, config).tolist() == [3, 1, 4, 0, 2]
    # Half score, half min(inliers, 100) / 100: .45, .55, .35, .80, .40.
    blend = config.model_copy(update={"order": "blend"})
    assert spatial_order(scores, inliers, blend).tolist() == [3, 1, 0, 4, 2]
    unweighted = blend.model_copy(update={"weight": 0.0})
    assert spatial_order(scores, inliers, unweighted).tolist() == [0, 1, 2, 3, 4]


def test_no_order_is_made_of_scores_that_are_none():
    with pytest.raises(ValueError, match="expected finite scores, got NaN") as fault:
        spatial_order(np.array([0.5, np.nan]), np.array([20, 30]), SpatialConfig(features="sift"))
    assert str(fault.value).endswith("describe the photos again")


def test_tolerances_suit_the_features_unless_they_are_set():
    own, sift, given = (
        SpatialConfig(**values)
        for values in ({}, {"features": "sift"}, {"max_error_px": 5.0, "max_ratio": 1})
    )
    assert (own.max_error_px, own.max_ratio) == (20.0, 0.95)
    assert (sift.max_error_px, sift.max_ratio) == (8.0, 0.9)
    assert (given.max_error_px, given.max_ratio) == (5.0, 1.0)
    assert SpatialConfig.model_validate(own.model_dump()) == own


@pytest.mark.parametrize("order", ["inliers", "blend"])
def test_candidates_are_sorted_anew_and_the_others_keep_their_order(scene, vectors, order):
    query, database = vectors
    config = SpatialConfig(candidates=30, features="sift", order=order)
    (found,) = reranked(
        query, database, RerankConfig(spatial=config), 40, verifiers=[_verifier(scene, config)]
    )
    first = search(query, database, 40)
    assert sorted(found.rows[0, :30]) == sorted(first.rows[0, :30])
    assert found.rows[0, 30:].tolist() == first.rows[0, 30:].tolist()
    assert (found.inliers[0, 30:] == UNSEEN).all()
    assert len(scene.asked) == 30
    # A plain sort of what is known of each photo.
    inliers = dict(zip(found.rows[0].tolist(), found.inliers[0].tolist(), strict=True))
    scores = dict(zip(first.rows[0].tolist(), first.scores[0].tolist(), strict=True))

    def worth(row):
        proven = inliers[row] if inliers[row] >= 12 else 0
        return (proven, scores[row]) if order == "inliers" else 0.5 * scores[row] + 0.5 * proven / 100

    assert found.rows[0, :30].tolist() == sorted(first.rows[0, :30].tolist(), key=worth, reverse=True)
    np.testing.assert_array_equal(found.scores[0], [np.float32(scores[row]) for row in found.rows[0]])
    verified = [row for row, count in inliers.items() if count >= 12]
    assert sorted(verified) == sorted(row for row in first.rows[0, :30] if row % 5 == 2 and row != 7)
    assert abs(max(inliers.values()) - max(scene.shared[verified])) <= 3


def test_fewer_photos_are_shown_than_are_verified(scene, vectors):
    query, database = vectors
    config = RerankConfig(spatial=SpatialConfig(candidates=30, features="sift"))
    (whole,) = reranked(query, database, config, 50, verifiers=[_verifier(scene, config.spatial)])
    (short,) = reranked(query, database, config, 4, verifiers=[_verifier(scene, config.spatial)])
    assert short.rows.tolist() == whole.rows[:, :4].tolist()
    assert short.inliers.tolist() == whole.inliers[:, :4].tolist()


def test_composes_with_diffusion(scene, vectors):
    query, database = vectors
    steps = {"diffusion": DiffusionConfig(neighbours=10), "spatial": SpatialConfig(features="sift")}
    config = RerankConfig.model_validate(steps)
    (found,) = reranked(query, database, config, 50, verifiers=[_verifier(scene, config.spatial)])
    (plain,) = reranked(query, database, RerankConfig(diffusion=steps["diffusion"]), 50)
    count = int((found.inliers[0] >= 12).sum())
    assert count == 9
    behind = found.rows[0, count:].tolist()
    assert behind == [row for row in plain.rows[0].tolist() if row in set(behind)]


def test_expansion_by_verified_photos_alone(scene, vectors):
    query, database = vectors
    spatial = SpatialConfig(candidates=25, features="sift")
    config = RerankConfig(qe=ExpansionConfig(neighbours=3, alpha=1.5, verified=True), spatial=spatial)
    verifier = _verifier(scene, spatial)
    (found,) = reranked(query, database, config, 50, verifiers=[verifier])
    near = [row for row in search(query, database, 25).rows[0] if row % 5 == 2 and row != 7][:3]
    assert len(near) == 3
    expanded = query[0].astype(np.float64)
    for row in near:
        expanded = expanded + max(float(query[0] @ database[row]), 0.0) ** 1.5 * database[row]
    expanded /= np.linalg.norm(expanded)
    np.testing.assert_allclose(found.scores[0], (database @ expanded)[found.rows[0]], atol=1e-5)
    # No photo is verified twice.
    assert len(scene.asked) == len(set(scene.asked))


def test_a_query_that_nothing_verifies_is_not_expanded(vectors):
    query, database = vectors
    nothing = _Scene(np.zeros(NUM_PHOTOS, int))
    spatial = SpatialConfig(features="sift")
    config = RerankConfig(qe=ExpansionConfig(verified=True), spatial=spatial)
    (found,) = reranked(query, database, config, 50, verifiers=[_verifier(nothing, spatial)])
    assert found.rows.tolist() == search(query, database).rows.tolist()


def test_junk_makes_room_for_other_candidates_in_each_protocol(scene, vectors):
    query, database = vectors
    generator = np.random.default_rng(3)
    order = generator.permutation(NUM_PHOTOS)
    protocols = {
        name: (Relevance(positives=order[:p], junk=order[p : p + j]),)
        for name, p, j in (("easy", 8, 5), ("hard", 3, 20))
    }
    benchmark = Benchmark(
        name="made up",
        photos=Path("photos"),
        query_photos=Path("photos"),
        database=tuple(f"{row}.jpg" for row in range(NUM_PHOTOS)),
        queries=(Query(name="q.jpg"),),
        protocols=protocols,
    )
    config = SpatialConfig(candidates=12, features="sift")
    found = score(
        benchmark,
        query,
        database,
        np.arange(NUM_PHOTOS),
        RerankConfig(spatial=config),
        [_verifier(scene, config)],
    )
    for name, (truth,) in protocols.items():
        whole = search(query, database)
        kept = [
            (row, s) for row, s in zip(whole.rows[0], whole.scores[0], strict=True) if row not in truth.junk
        ]
        rows, scores = (np.array(part) for part in zip(*kept, strict=True))
        counts = _verifier(scene, config).inliers(rows[:12])
        plain = np.concatenate([rows[:12][spatial_order(scores[:12], counts, config)], rows[12:]])
        expected = score_rankings([plain], [truth])
        assert found.scores[name].mean_average_precision == pytest.approx(
            expected.mean_average_precision, abs=1e-12
        )


def test_features_of_another_kind_are_refused(vectors):
    query, database = vectors
    scene = _Scene(np.zeros(NUM_PHOTOS, int))
    config = SpatialConfig(features="sift")
    other = Verifier(lambda: _features(scene.points, _unit(np.ones((SHARED, 7)))), scene.of_rows, config)
    with pytest.raises(ValueError, match="expected descriptors of one length, got 7 and 24"):
        list(reranked(query, database, RerankConfig(spatial=config), 5, verifiers=[other]))


def test_verified_expansion_needs_a_spatial_step():
    with pytest.raises(ValueError, match="expected a spatial step, which verifies, got none"):
        RerankConfig(qe=ExpansionConfig(verified=True))
