import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnimretrieval.evaluation.paired import paired_difference
from groundwork.random_streams import random_stream

A = np.array([0.5, 0.7, 0.2, 0.9, 0.4, 0.6])
B = np.array([0.6, 0.9, 0.1, 0.9, 0.8, 0.6])
PLACE = np.array([4, 4, 7, 7, 7, 9])


def test_known_means_and_counts():
    by_place = paired_difference(A, B, PLACE, "places")
    # Places: 0.15, 0.1 and 0.
    assert by_place.mean == pytest.approx(0.25 / 3)
    assert (by_place.count, by_place.better, by_place.worse) == (3, 2, 0)
    by_query = paired_difference(A, B, PLACE, "queries")
    assert by_query.mean == pytest.approx(0.1)
    assert (by_query.count, by_query.better, by_query.worse) == (6, 3, 1)


@pytest.mark.parametrize("mean", ["places", "queries"])
def test_the_interval_is_that_of_a_plain_bootstrap(mean):
    generator, means = random_stream(5, "bootstrap"), []
    groups = [(B - A)[place == PLACE] for place in (4, 7, 9)]
    for _ in range(400):
        drawn = [groups[number] for number in generator.integers(0, 3, 3)]
        parts = [part.mean() for part in drawn] if mean == "places" else np.concatenate(drawn)
        means.append(np.mean(parts))
    found = paired_difference(A, B, PLACE, mean, seed=5, draws=400)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))


@given(st.integers(0, 9))
def test_the_interval_turns_round_with_the_runs(seed):
    there = paired_difference(A, B, PLACE, "queries", seed=seed, draws=200)
    back = paired_difference(B, A, PLACE, "queries", seed=seed, draws=200)
    assert (back.mean, back.low, back.high) == pytest.approx((-there.mean, -there.high, -there.low))
    assert there.low <= there.mean <= there.high


def test_ten_views_of_one_place_are_no_ten_proofs():
    # One place of ten queries is better, four of one are worse: no draw of places is sure of a gain.
    place = np.array([0] * 10 + [1, 2, 3, 4])
    gain = np.array([0.2] * 10 + [-0.1] * 4)
    found = paired_difference(np.zeros(14), gain, place, "queries")
    assert found.mean > 0.1
    assert not found.beyond_chance
    assert paired_difference(np.zeros(14), np.full(14, 0.1), place, "queries").beyond_chance


def test_one_place_leaves_the_interval_unknown():
    found = paired_difference(A, B, np.zeros(6, int), "places")
    assert (found.low, found.high, found.beyond_chance) == (None, None, False)


def test_nothing_to_compare_is_told():
    with pytest.raises(ValueError, match="expected scores of the same queries, got 0, 0 and 0 places"):
        paired_difference(A[:0], B[:0], PLACE[:0], "places")
    with pytest.raises(ValueError, match="expected finite scores, got NaN or infinity"):
        paired_difference(A, B * np.nan, PLACE, "places")
