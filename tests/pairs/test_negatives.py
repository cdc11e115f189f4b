from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pairs.negatives
from pairs.negatives import HardNegatives, NegativesConfig, mine_hard_negatives
from pairs.same_place_negatives import ApartPairs

REPOSITORY = Path(__file__).resolve().parents[2]


def walk_down_the_ranking(queries, query_place, pool, cluster, place, config, apart=()) -> list[list[int]]:
    """The definition, one image at a time."""
    chosen = []
    for number, (query, own_place) in enumerate(zip(queries, query_place, strict=True)):
        scores = pool @ query
        taken, rows = set(), []
        for row in np.argsort(-scores, kind="stable"):
            if place[row] < 0 and not config.allow_unplaced:
                continue
            if place[row] == own_place and (number, row) not in apart:
                continue
            if place[row] == own_place or config.rule == "n1":
                group = ("single", row)
            elif cluster[row] >= 0:
                group = ("cluster", cluster[row])
            else:
                group = ("loose", place[row]) if place[row] >= 0 else ("single", row)
            if group not in taken and len(rows) < config.num_negatives:
                taken.add(group)
                rows.append(int(row))
        chosen.append(rows)
    return chosen


def rows_of(found: HardNegatives) -> list[list[int]]:
    return [row[:count].tolist() for row, count in zip(found.pool_row, found.count, strict=True)]


@pytest.mark.parametrize("folder", ["tests/golden", "../shared/golden"])
@pytest.mark.parametrize("block_scores", [1, 1300, 1 << 24])
def test_golden_negatives_and_their_order(monkeypatch, folder, block_scores):
    monkeypatch.setattr(pairs.negatives, "_BLOCK_SCORES", block_scores)
    file = REPOSITORY / folder / "mining.npz"
    if not file.is_file():
        pytest.skip(f"needs the folder {folder} beside the repository")
    golden = np.load(file, allow_pickle=False)
    found = mine_hard_negatives(
        golden["query_vecs"],
        golden["query_cluster"],
        golden["pool_vecs"],
        golden["pool_cluster"],
        golden["pool_cluster"],
        NegativesConfig(num_negatives=int(golden["nnum"])),
    )
    np.testing.assert_array_equal(found.pool_row, golden["neg_index"])
    difference = golden["query_vecs"][:, None].astype(float) - golden["pool_vecs"][found.pool_row] + 1e-6
    distance = np.linalg.norm(difference, axis=2)
    np.testing.assert_allclose(distance, golden["neg_distance"], rtol=0, atol=2e-6)
    np.testing.assert_allclose(distance.mean(), golden["mean_distance"], rtol=0, atol=5e-6)
    np.testing.assert_allclose(2 - 2 * found.score, golden["neg_distance"] ** 2, rtol=0, atol=2e-5)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    num_pool=st.integers(1, 40),
    num_negatives=st.integers(1, 6),
    allow_unplaced=st.booleans(),
    rule=st.sampled_from(["n1", "n2"]),
    num_apart=st.integers(0, 4),
)
def test_equal_to_walking_down_the_ranking_with_many_ties(
    seed, num_pool, num_negatives, allow_unplaced, rule, num_apart
):
    rng = np.random.default_rng(seed)
    # Small whole numbers: scores are exact and often equal.
    pool = rng.integers(-1, 2, (num_pool, 3)).astype(np.float32)
    queries = rng.integers(-1, 2, (7, 3)).astype(np.float32)
    cluster = rng.integers(-1, 8, num_pool)
    # Clusters 2k and 2k + 1 are two models of place k; images without a cluster may have a place or none.
    place = np.where(cluster >= 0, cluster // 2, rng.integers(-1, 5, num_pool))
    query_place = rng.integers(0, 5, 7)

    own = [(q, p) for q in range(7) for p in range(num_pool) if place[p] == query_place[q]]
    chosen = sorted(own[n] for n in rng.permutation(len(own))[: num_apart * len(own) // 4])
    apart = ApartPairs(
        query=np.array([q for q, _ in chosen], np.int64), negative=np.array([p for _, p in chosen], np.int64)
    )
    config = NegativesConfig(num_negatives=num_negatives, allow_unplaced=allow_unplaced, rule=rule)
    found = mine_hard_negatives(queries, query_place, pool, cluster, place, config, apart)

    expected = walk_down_the_ranking(queries, query_place, pool, cluster, place, config, set(chosen))
    assert rows_of(found) == expected
    for query, rows, scores in zip(queries, expected, found.score, strict=True):
        np.testing.assert_array_equal(scores[: len(rows)], pool[rows] @ query)
        assert np.isnan(scores[len(rows) :]).all()


def test_fewer_other_places_give_fewer_negatives_and_say_so():
    pool = np.eye(4, dtype=np.float32)
    found = mine_hard_negatives(
        pool[:2], np.array([0, 2]), pool, np.array([0, 1, 2, 2]), np.array([0, 0, 2, 2]), NegativesConfig()
    )
    # Clusters 0 and 1 are two models of place 0: never negatives of each other.
    assert found.pool_row.tolist() == [[2, -1, -1, -1, -1], [1, 0, -1, -1, -1]]
    assert found.count.tolist() == [1, 2]


def test_a_pool_of_unplaced_images_gives_none_unless_they_are_let_in():
    pool = np.array([[0.1, 0], [0.3, 0], [0.2, 0]], dtype=np.float32)
    nowhere = np.full(3, -1)
    query = (np.array([[1.0, 0]], dtype=np.float32), np.array([0]))
    by_default = mine_hard_negatives(*query, pool, nowhere, nowhere, NegativesConfig())
    let_in = mine_hard_negatives(*query, pool, nowhere, nowhere, NegativesConfig(allow_unplaced=True))
    assert by_default.count.tolist() == [0]
    assert let_in.pool_row.tolist() == [[1, 2, 0, -1, -1]]


def test_bad_input_is_named():
    one = np.ones((2, 3), dtype=np.float32)
    zero_one = np.array([0, 1])
    with pytest.raises(ValueError, match="hard negatives") as error:
        mine_hard_negatives(one, np.array([0, -1]), one, zero_one, zero_one, NegativesConfig())
    assert str(error.value) == (
        "hard negatives: expected a place for every query, got -1 in row 1; "
        "take queries among the images that have a place"
    )
    with pytest.raises(ValueError, match="expected every cluster in one place, got two for 4"):
        mine_hard_negatives(one, zero_one, one, np.array([4, 4]), zero_one, NegativesConfig())
    with pytest.raises(ValueError, match="expected finite scores"):
        mine_hard_negatives(one, zero_one, one * np.nan, zero_one, zero_one, NegativesConfig())
