import json

import numpy as np
import pytest

from cnnimretrieval.evaluation.metrics import Relevance, Scores, average_precision_at, score_rankings


def _relevance(positives, junk) -> Relevance:
    return Relevance(positives=np.array(positives, np.int64), junk=np.array(junk, np.int64))


def _score(ranking, positives, junk=(), cutoffs=(1, 5, 10)) -> Scores:
    return score_rankings([np.array(ranking)], [_relevance(positives, junk)], cutoffs)


@pytest.fixture(scope="module")
def edge_cases(any_golden):
    return json.loads((any_golden / "evaluation" / "edge_cases.json").read_text())


def test_edge_cases_equal_the_reference(edge_cases):
    compared = 0
    for case in edge_cases["cases"]:
        if not case["binding"] or case["ap"] is None:
            continue
        scores = _score(case["ranking"], case["ok"], case["junk"], case["kappas"])
        assert scores.mean_average_precision == pytest.approx(case["ap"], abs=1e-12), case["name"]
        if case["p"] is not None:
            np.testing.assert_allclose(
                scores.precision[0], case["p"], rtol=0, atol=1e-12, err_msg=case["name"]
            )
        compared += 1
    assert compared > 5


def test_malformed_ground_truth_is_refused(edge_cases):
    malformed = {case["name"]: case for case in edge_cases["cases"] if not case["binding"]}
    for name in ("duplicate_id_in_ok", "positive_also_listed_as_junk"):
        with pytest.raises(ValueError, match=r"^ground truth: expected every row once, .*got row \d+ twice"):
            _relevance(malformed[name]["ok"], malformed[name]["junk"])


def test_queries_without_positives_leave_the_means_and_are_counted(edge_cases):
    case = edge_cases["one_empty_query"]
    relevance = [_relevance(truth["ok"], truth["junk"]) for truth in case["gnd"]]
    scores = score_rankings(np.array(case["rankings"]), relevance, case["kappas"])
    assert scores.mean_average_precision == pytest.approx(case["map"], abs=1e-12)
    np.testing.assert_allclose(scores.mean_precision, case["mp"], rtol=0, atol=1e-12)
    assert (scores.num_scored, scores.num_without_positives) == (3, 1)
    assert np.isnan(scores.average_precision[1])
    assert np.isnan(scores.recall[1]).all()


@pytest.mark.parametrize(
    ("ranking", "got"),
    [([4, -1, 2], "row -1"), ([4.0, 2.0], "float64 of shape (2,)"), ([[4, 2]], "int64 of shape (1, 2)")],
)
def test_rankings_are_rows_of_the_database(ranking, got):
    with pytest.raises(ValueError, match=r"^ranking: ") as error:
        _score(ranking, [2])
    assert str(error.value) == (
        f"ranking: expected rows of the database, from 0, got {got}; give their numbers"
    )


def test_ground_truth_has_no_negative_rows():
    with pytest.raises(ValueError, match=r"^ground truth: ") as error:
        _relevance([3, -2], [1])
    assert str(error.value) == (
        "ground truth: expected rows of the database, from 0, got row -2; give their numbers"
    )


def test_every_query_has_a_ranking_and_ranks_begin_at_1():
    with pytest.raises(ValueError, match=r"^rankings: ") as error:
        score_rankings([], [_relevance([3], [])])
    assert str(error.value) == "rankings: expected one for each of 1 queries, got 0; rank every query"
    with pytest.raises(ValueError, match=r"^cutoffs: expected ranks from 1, got 0; leave it out$"):
        _score([3, 1], [3], cutoffs=(1, 0))


def test_no_query_with_positives_is_an_error():
    with pytest.raises(ValueError, match=r"^evaluation: ") as error:
        _score([3, 1, 2], [], [1])
    assert str(error.value) == (
        "evaluation: expected a query with positives, got none among 1; check the ground truth"
    )


def test_a_ranking_cut_off_before_any_positive_scores_nothing():
    scores = _score([4, 5, 6], [1, 2])
    assert scores.mean_average_precision == 0.0
    np.testing.assert_array_equal(scores.mean_precision, [0.0, 0.0, 0.0])
    np.testing.assert_array_equal(scores.mean_recall, [0.0, 0.0, 0.0])


def test_recall_asks_for_one_positive_among_the_first_k_without_junk():
    scores = _score([9, 7, 4, 1, 2], [1, 2], junk=[9], cutoffs=(1, 2, 3))
    np.testing.assert_array_equal(scores.mean_recall, [0.0, 0.0, 1.0])


def test_a_row_twice_in_a_ranking_is_refused():
    with pytest.raises(
        ValueError, match=r"^ranking: expected every row once, got row 5 twice; rank each row once$"
    ):
        _score([5, 1, 5], [1])


def test_average_precision_equals_a_walk_down_the_ranking():
    generator = np.random.default_rng(11)
    for _ in range(50):
        ranking = generator.permutation(40)[: generator.integers(1, 41)]
        judged = generator.permutation(40)
        num_positives, num_junk = generator.integers(1, 15), generator.integers(0, 15)
        positives, junk = judged[:num_positives], judged[num_positives : num_positives + num_junk]
        area, found, place = 0.0, 0, 0
        for row in ranking:
            if row in junk:
                continue
            if row in positives:
                before = found / place if place else 1.0
                found += 1
                area += (before + found / (place + 1)) / 2 / num_positives
            place += 1
        scores = _score(ranking, positives, junk)
        assert scores.mean_average_precision == pytest.approx(area, abs=1e-12)


def test_average_precision_among_the_first_places():
    # Precisions 1/2 and 2/3 at the places 2 and 3; the third is beyond the depth, the fourth not found.
    found = np.array([1, 2, 5])
    assert average_precision_at(5, found, 4) == pytest.approx((1 / 2 + 2 / 3) / 4)
    assert average_precision_at(6, found, 4) == pytest.approx((1 / 2 + 2 / 3 + 3 / 6) / 4)
    # Nobody can find more positives than the depth has places.
    assert average_precision_at(2, np.array([0, 1]), 7) == 1.0
    assert average_precision_at(5, np.array([], np.int64), 4) == 0.0
    assert np.isnan(average_precision_at(5, np.array([], np.int64), 0))


def test_the_reference_raises_where_we_answer(edge_cases):
    """A ranking cut off before any positive is 0; queries without positives are left out and counted."""
    raised = {case["name"] for case in edge_cases["cases"] if case["raises"]}
    assert raised == {"all_junk_no_positive", "no_positives", "truncated_ranking_none_found"}
    cases = {case["name"]: case for case in edge_cases["cases"]}
    truncated = cases["truncated_ranking_none_found"]
    empty = cases["all_junk_no_positive"]
    scores = score_rankings(
        [np.array(truncated["ranking"]), np.array(empty["ranking"])],
        [_relevance(case["ok"], case["junk"]) for case in (truncated, empty)],
    )
    assert (scores.mean_average_precision, scores.num_scored, scores.num_without_positives) == (0.0, 1, 1)
    np.testing.assert_array_equal(scores.mean_precision, [0.0, 0.0, 0.0])
