import json

import numpy as np
import pandas as pd
import pytest

from cnnimretrieval.evaluation.heldout import HeldoutTest, Proof, gain, heldout_test, prove
from pairs.heldout import HeldoutQuery


@pytest.fixture
def test_set(collection, heldout):
    return heldout_test(heldout, collection.table.names, collection.photos)


def _database(collection) -> np.ndarray:
    """One axis a place, so that images of a place are alike and others are not; the loose photo alone."""
    vectors = np.eye(6, dtype=np.float32)[np.where(collection.table.place < 0, 5, collection.table.place)]
    noise = np.random.default_rng(0).normal(scale=0.05, size=vectors.shape).astype(np.float32)
    return (vectors + noise) / np.linalg.norm(vectors + noise, axis=1, keepdims=True)


def test_perfect_descriptors_score_one(collection, test_set):
    database = _database(collection)
    rows = [collection.table.names.index(query.query) for query in test_set.queries]
    proof = prove(test_set, database[rows], database)
    for kind in ("crop", "whole"):
        scores = proof.scores[kind]
        assert (scores.map, scores.recall_at_1, scores.map_per_query) == (1.0, 1.0, 1.0)
        assert (scores.queries, scores.places) == (6, 2)


def test_a_place_counts_once_however_many_queries_it_has(collection, heldout):
    # Place 1 keeps one crop query, which fails; the three of place 3 succeed.
    crops = [query for query in heldout if query.kind == "crop"]
    kept = [query for query in crops if query.place == 3 or query.query == "1-0.png"]
    test = heldout_test(kept, collection.table.names, collection.photos)
    database = _database(collection)
    rows = [collection.table.names.index(query.query) for query in kept]
    queries = database[rows].copy()
    queries[rows.index(3)] = np.eye(6, dtype=np.float32)[0]
    scores = prove(test, queries, database).scores["crop"]
    assert scores.recall_at_1 == 0.5
    assert scores.recall_at_1_per_query == 0.75
    assert scores.map < scores.map_per_query < 1.0


def test_the_querys_own_photo_is_junk(collection, test_set):
    database = _database(collection)
    first = test_set.queries[0]
    rows = [collection.table.names.index(query.query) for query in test_set.queries]
    proof = prove(test_set, database[rows], database)
    assert proof.rankings["ranked"][0][0] == first.query
    assert proof.average_precision[0] == 1.0


def test_the_gain_is_paired_over_places(collection, test_set):
    database = _database(collection)
    rows = np.array([collection.table.names.index(query.query) for query in test_set.queries])
    good = prove(test_set, database[rows], database)
    blurred = database[rows].copy()
    blurred[collection.table.place[rows] == 3] = np.eye(6, dtype=np.float32)[0]
    bad = prove(test_set, blurred, database)
    found = gain(test_set, good, bad)
    loss = 1.0 - np.mean(
        [bad.average_precision[i] for i in range(len(rows)) if test_set.queries[i].place == 3]
    )
    assert found.kind == "crop"
    assert (found.places_better, found.places_worse) == (1, 0)
    assert found.map == pytest.approx(loss / 2)
    assert found.standard_error == pytest.approx(loss / 2)
    assert gain(test_set, bad, good).map == -found.map
    assert (found.places, found.proven) == (2, False)


def _gain(differences):
    """Of places whose mAPs differ by these: one query each."""
    queries = [
        HeldoutQuery(
            query="q",
            kind="crop",
            box=(0, 0, 9, 9),
            rotation_deg=0.0,
            seed=1,
            positives=("p",),
            junk=(),
            place=n,
        )
        for n in range(len(differences))
    ]
    test = HeldoutTest(queries=tuple(queries), requests=(), relevance=(), names=())
    rankings = pd.DataFrame()
    ours, theirs = (
        Proof(scores={}, average_precision=np.array(values, dtype=np.float64), rankings=rankings)
        for values in ([0.5 + d for d in differences], [0.5] * len(differences))
    )
    return gain(test, ours, theirs)


@pytest.mark.parametrize(
    ("differences", "error", "proven", "words"),
    [
        ([0.25], None, False, "+0.2500 mAP (standard error unknown over 1 place)"),
        ([0.25] * 4, 0.0, False, "+0.2500 mAP (standard error 0.0000 over 4 places)"),
        ([0.25] * 5, 0.0, True, "+0.2500 mAP (standard error 0.0000 over 5 places)"),
        ([0.0] * 6, 0.0, False, "+0.0000 mAP (standard error 0.0000 over 6 places)"),
        ([0.5, 0.0, 0.0, 0.0, 0.0], 0.1, False, "+0.1000 mAP (standard error 0.1000 over 5 places)"),
        # Of six places, 2.57 standard errors are asked for: here are 2.4 and 2.7.
        ([0.2073, 0.0073] * 3, 0.0447, False, "+0.1073 mAP (standard error 0.0447 over 6 places)"),
        ([0.2207, 0.0207] * 3, 0.0447, True, "+0.1207 mAP (standard error 0.0447 over 6 places)"),
        ([np.nan, 0.25], None, False, "+0.2500 mAP (standard error unknown over 1 place)"),
        ([np.nan], None, False, "unknown mAP (standard error unknown over 0 places)"),
    ],
)
def test_what_is_not_known_of_a_gain_is_said(differences, error, proven, words):
    found = _gain(differences)
    assert found.standard_error == (None if error is None else pytest.approx(error, abs=1e-4))
    assert (found.proven, str(found)) == (proven, words)
    assert json.loads(found.model_dump_json())["standard_error"] == found.standard_error


def test_the_error_of_a_gain_over_one_place_is_unknown(collection, heldout):
    one = [query for query in heldout if query.place == 3]
    test = heldout_test(one, collection.table.names, collection.photos)
    database = _database(collection)
    rows = np.array([collection.table.names.index(query.query) for query in one])
    proof = prove(test, database[rows], database)
    found = gain(test, proof, proof)
    assert found.standard_error is None
    assert str(found).endswith("(standard error unknown over 1 place)")


def test_crops_are_photos_of_their_own_and_relit(collection, test_set):
    crop = next(
        request
        for query, request in zip(test_set.queries, test_set.requests, strict=True)
        if query.kind == "crop"
    )
    assert crop.as_photo
    assert crop.edit is not None
    assert crop.box == (10.0, 5.0, 50.0, 40.0)


def test_no_query_is_an_error_that_says_what_to_do(collection):
    with pytest.raises(ValueError, match=r"^held-out places: ") as error:
        heldout_test([], collection.table.names, collection.photos)
    assert str(error.value) == (
        "held-out places: expected at least one test query, got none; "
        "add photos that overlap more, or lower pairs.heldout.min_shared_points"
    )
