import json
import pickle

import numpy as np
import pytest

from cnnimretrieval.evaluation.metrics import Relevance, Scores, score_rankings
from cnnimretrieval.search.exact import search

# Published protocols: what counts as positive, what is taken out.
PROTOCOLS = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}


def _relevance(positives, junk) -> Relevance:
    return Relevance(positives=np.array(positives, np.int64), junk=np.array(junk, np.int64))


def _score(ranking, positives, junk=(), cutoffs=(1, 5, 10)) -> Scores:
    return score_rankings([np.array(ranking)], [_relevance(positives, junk)], cutoffs)


@pytest.fixture(scope="module")
def edge_cases(golden):
    return json.loads((golden / "evaluation" / "edge_cases.json").read_text())


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
    assert compared == 12


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


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module, name):
        raise pickle.UnpicklingError(f"expected plain data, got {module}.{name}")


def _ground_truth(shared, name):
    path = shared / "golden" / "evaluation" / f"gnd_{name}.pkl"
    if not path.is_file():
        pytest.skip(f"needs {path.name} in ../shared/golden/evaluation")
    with path.open("rb") as file:
        return _PlainUnpickler(file).load()["gnd"]


@pytest.mark.real
@pytest.mark.parametrize("protocol", ["easy", "medium", "hard"])
@pytest.mark.parametrize("name", ["roxford5k", "rparis6k"])
def test_published_ground_truth_scores_as_the_reference_does(shared, name, protocol):
    positive_keys, junk_keys = PROTOCOLS[protocol]
    relevance = [
        _relevance(
            [row for key in positive_keys for row in truth[key]],
            [row for key in junk_keys for row in truth[key]],
        )
        for truth in _ground_truth(shared, name)
    ]
    with np.load(shared / "golden" / "evaluation" / f"{name}.npz") as expected:
        ranking = search(expected["queries"].astype(np.float32), expected["db"].astype(np.float32)).rows
        scores = score_rankings(ranking, relevance, expected["kappas"].tolist())
        assert scores.mean_average_precision == pytest.approx(float(expected[f"map_{protocol}"]), abs=1e-12)
        for ours, theirs in (
            (scores.average_precision, f"ap_{protocol}"),
            (scores.precision, f"p_{protocol}"),
            (scores.mean_precision, f"mp_{protocol}"),
        ):
            np.testing.assert_allclose(ours, expected[theirs], rtol=0, atol=1e-12)


@pytest.mark.real
def test_older_ground_truth_scores_as_the_reference_does(shared):
    relevance = [_relevance(truth["ok"], truth["junk"]) for truth in _ground_truth(shared, "old")]
    with np.load(shared / "golden" / "evaluation" / "old.npz") as expected:
        ranking = search(expected["queries"].astype(np.float32), expected["db"].astype(np.float32)).rows
        scores = score_rankings(ranking, relevance)
        assert scores.mean_average_precision == pytest.approx(float(expected["map"]), abs=1e-12)
        np.testing.assert_allclose(scores.average_precision, expected["ap"], rtol=0, atol=1e-12)
