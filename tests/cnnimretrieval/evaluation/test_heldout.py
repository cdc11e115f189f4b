import json
from dataclasses import replace

import numpy as np
import pytest

from cnnimretrieval.descriptors.distort import Relit
from cnnimretrieval.descriptors.retake import Retaken
from cnnimretrieval.evaluation.heldout import KindProof, Proof, gain, prove, ranking_table
from cnnimretrieval.evaluation.metrics import Relevance, score_rankings
from cnnimretrieval.evaluation.queries import query_set
from groundwork.top_k import search
from pairs.heldout import HeldoutQuery


@pytest.fixture
def queries(collection, heldout):
    return query_set(heldout, collection.table, collection.photos)


def _database(collection) -> np.ndarray:
    """One axis a place, so that images of a place are alike and others are not; the loose photo alone."""
    vectors = np.eye(6, dtype=np.float32)[np.where(collection.table.place < 0, 5, collection.table.place)]
    noise = np.random.default_rng(0).normal(scale=0.05, size=vectors.shape).astype(np.float32)
    return (vectors + noise) / np.linalg.norm(vectors + noise, axis=1, keepdims=True)


def _rows(collection, queries) -> np.ndarray:
    return np.array([collection.table.names.index(query.query) for query in queries.queries])


def _training_queries(table) -> list[HeldoutQuery]:
    """A crop of the first image of every training place, one for either purpose."""
    firsts = [row for row in range(table.num_images) if table.names[row].endswith("-0.png")]
    return [
        HeldoutQuery(
            query=table.names[row],
            kind="crop",
            purpose=purpose,
            box=(1, 2, 40, 41),
            rotation_deg=0.0,
            seed=row,
            positives=(table.names[row + 1], table.names[row + 2]),
            far=(table.names[row + 2],),
            place=int(table.place[row]),
        )
        for row in firsts
        if not table.is_val[row]
        for purpose in ("report", "choose")
    ]


def test_the_situations_of_reported_queries(collection, heldout):
    drawn = [*heldout, *_training_queries(collection.table)]
    found = query_set(drawn, collection.table, collection.photos).situations("report")
    assert [one.name for one in found] == ["unseen_database", "own_collection", "own_places"]
    unseen, own, trained = found
    assert unseen.database.tolist() == np.flatnonzero(collection.table.is_val).tolist()
    assert own.database is trained.database is None
    assert unseen.queries.tolist() == own.queries.tolist() == list(range(len(heldout)))
    assert [drawn[number].purpose for number in trained.queries] == ["report"] * 3
    # No place is set aside here, and those trained on are no ground to choose a network by.
    assert query_set(drawn, collection.table, collection.photos).situations("choose") == ()


def test_choices_see_no_photo_of_a_reported_place(collection, heldout):
    table = collection.table
    is_loose = table.place < 0
    split = replace(table, is_choosing=table.place == 3, is_val=table.is_val | is_loose)
    drawn = [replace(query, purpose="choose" if query.place == 3 else "report") for query in heldout]
    (unseen, own) = query_set(drawn, split, collection.photos).situations("choose")
    assert {drawn[number].place for number in unseen.queries} == {3}
    assert unseen.database.tolist() == np.flatnonzero((table.place == 3) | is_loose).tolist()
    assert own.database is None
    (reported, _) = query_set(drawn, split, collection.photos).situations("report")
    assert reported.database.tolist() == np.flatnonzero(split.is_val).tolist()


def test_perfect_descriptors_score_one(collection, queries):
    database = _database(collection)
    for situation in queries.situations("report"):
        asked = database[_rows(collection, queries)][situation.queries]
        proof = prove(queries, situation, asked, situation.searched(database))
        assert list(proof.scores) == ["crop", "whole"]
        assert proof.decisive == "crop"
        for scores in proof.scores.values():
            assert (scores.map, scores.recall_at_1, scores.map_per_query) == (1.0, 1.0, 1.0)
            assert (scores.queries, scores.places) == (6, 2)


def test_choices_are_made_by_details_however_they_were_taken(collection, heldout):
    database = _database(collection)

    def proof(*kinds):
        drawn = [replace(query, kind=kind) for query, kind in zip(heldout, kinds * 12, strict=False)]
        queries = query_set(drawn, collection.table, collection.photos)
        return prove(
            queries, queries.situations("report")[1], database[_rows(collection, queries)][::-1], database
        )

    both = proof("crop", "retaken", "whole")
    of_kind = [both.scores[kind].map for kind in ("crop", "retaken", "whole")]
    assert len(set(of_kind)) == 3
    assert both.map_of_details == pytest.approx(np.mean(of_kind[:2]))
    whole = proof("whole")
    assert whole.map_of_details == whole.scores["whole"].map


@pytest.mark.parametrize("number", [0, 1])
def test_scores_are_those_of_whole_rankings(collection, heldout, number):
    """By sorting the whole database, the slow way; far views once as positives of their own."""
    table, rng = collection.table, np.random.default_rng(7)
    drawn = [replace(query, far=query.positives[1:]) for query in heldout]
    queries = query_set(drawn, table, collection.photos)
    database = rng.normal(size=(table.num_images, 4)).astype(np.float32)
    database /= np.linalg.norm(database, axis=1, keepdims=True)
    asked = database[_rows(collection, queries)] + rng.normal(size=(len(drawn), 4)).astype(np.float32) / 2
    situation = queries.situations("report")[number]
    proof = prove(queries, situation, asked, situation.searched(database))
    rows = np.arange(table.num_images) if situation.database is None else situation.database
    for kind in ("crop", "whole", "far"):
        of_kind = [n for n, query in enumerate(drawn) if query.kind == kind.replace("far", "crop")]
        relevance = []
        for n in of_kind:
            names = drawn[n].far if kind == "far" else drawn[n].positives
            members = np.flatnonzero(table.place[rows] == drawn[n].place)
            positives = np.array([m for m in members if table.names[rows[m]] in names])
            relevance.append(Relevance(positives=positives, junk=np.setdiff1d(members, positives)))
        expected = score_rankings(search(asked[of_kind], database[rows]).rows, relevance, cutoffs=(1,))
        np.testing.assert_allclose(proof.kinds[kind].average_precision, expected.average_precision)
        np.testing.assert_array_equal(proof.kinds[kind].precision_at_1, expected.recall[:, 0])


def test_a_place_counts_once_however_many_queries_it_has(collection, heldout):
    # Place 1 keeps one crop query, which fails; the three of place 3 succeed.
    kept = [q for q in heldout if q.kind == "crop" and (q.place == 3 or q.query == "1-0.png")]
    queries = query_set(kept, collection.table, collection.photos)
    database = _database(collection)
    rows = _rows(collection, queries)
    vectors = database[rows].copy()
    vectors[rows.tolist().index(3)] = np.eye(6, dtype=np.float32)[0]
    own = queries.situations("report")[1]
    scores = prove(queries, own, vectors, database).scores["crop"]
    assert scores.recall_at_1 == 0.5
    assert scores.recall_at_1_per_query == 0.75
    assert scores.map < scores.map_per_query < 1.0


def test_the_ranking_table_says_what_was_found(collection, queries):
    database = _database(collection)
    situation = queries.situations("report")[0]
    vectors = database[_rows(collection, queries)], situation.searched(database)
    proof = prove(queries, situation, *vectors)
    table = ranking_table(queries, situation, *vectors, proof)
    first = queries.queries[0]
    assert table["ranked"][0][0] == first.query
    assert table["junk"][0] == [first.query]
    assert set(table["positives"][0]) == set(first.positives)
    assert table["average_precision"].tolist() == [1.0] * 12
    assert {name for ranked in table["ranked"] for name in ranked} <= {
        collection.table.names[row] for row in situation.database
    }


def _proof(values) -> Proof:
    """Of places with these mAPs: one query each."""
    precision = np.array(values, dtype=np.float64)
    kind = KindProof(average_precision=precision, precision_at_1=precision, place=np.arange(len(precision)))
    return Proof(situation="unseen_database", kinds={"crop": kind})


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
    found = gain(_proof([0.5 + d for d in differences]), _proof([0.5] * len(differences)))
    assert found.standard_error == (None if error is None else pytest.approx(error, abs=1e-4))
    assert (found.proven, str(found)) == (proven, words)
    assert json.loads(found.model_dump_json())["standard_error"] == found.standard_error


def test_the_gain_is_paired_over_places():
    found = gain(_proof([0.9, 0.4, 0.7]), _proof([0.8, 0.5, 0.7]))
    assert (found.kind, found.places, found.places_better, found.places_worse) == ("crop", 3, 1, 1)
    assert found.map == pytest.approx(0.0)


def test_crops_are_photos_of_their_own_relit_or_retaken(collection, heldout):
    retaken = [replace(query, kind="retaken") for query in heldout if query.kind == "crop"]
    queries = query_set([*heldout, *retaken], collection.table, collection.photos)
    edits = {"whole": type(None), "crop": Relit, "retaken": Retaken}
    for query, request in zip(queries.queries, queries.requests, strict=True):
        assert isinstance(request.edit, edits[query.kind])
        assert request.as_photo == (query.kind != "whole")
        assert request.box == (None if query.kind == "whole" else (10.0, 5.0, 50.0, 40.0))


def test_no_query_is_an_error_that_says_what_to_do(collection):
    with pytest.raises(ValueError, match=r"^held-out places: ") as error:
        query_set([], collection.table, collection.photos)
    assert str(error.value) == (
        "held-out places: expected at least one test query, got none; "
        "add photos that overlap more, or lower pairs.heldout.min_shared_points"
    )
