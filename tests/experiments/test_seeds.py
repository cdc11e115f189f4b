"""Runs of several seeds as one table, from files as training leaves them."""

import pandas as pd
import pytest

from cnnimretrieval.evaluation.heldout import KindScores
from cnnimretrieval.training.result import RowScores, SituationScores, TrainResult
from experiments.benchmarks import seeds
from experiments.comparison import Answers

ROWS = ("off_the_shelf", "off_the_shelf_whitened")


def _answers(queries) -> Answers:
    """Queries: kind, place, the average precision of both rows."""
    return Answers(
        kept=ROWS[1],
        rows={
            row: pd.DataFrame(
                {
                    "kind": [query[0] for query in queries],
                    "query": "q.jpg",
                    "place": [query[1] for query in queries],
                    "average_precision": [query[2 + number] for query in queries],
                },
                index=pd.Index(range(len(queries))),
            )
            for number, row in enumerate(ROWS)
        },
    )


def test_differences_are_means_over_the_places_of_all_seeds():
    # Place 0 of one seed is another than place 0 of the other.
    first = _answers(
        [("crop", 0, 0.2, 0.4), ("crop", 0, 0.2, 0.2), ("crop", 5, 0.5, 0.4), ("retaken", 0, 0.1, 0.1)]
    )
    second = _answers([("crop", 0, 0.0, 0.6), ("retaken", 0, 0.3, 0.2)])
    found = seeds._difference([first, second], *ROWS, "crop")
    assert found.mean == pytest.approx((0.1 - 0.1 + 0.6) / 3)
    assert (found.count, found.better, found.worse) == (3, 2, 1)
    # Both kept the second row.
    assert seeds._difference([first, second], ROWS[0], "kept", "crop") == found
    retaken = seeds._difference([first, second], *ROWS, "retaken")
    assert (retaken.mean, retaken.count) == (pytest.approx(-0.05), 2)


def _result(score: float, *, with_far: bool) -> TrainResult:
    def kind(value: float) -> KindScores:
        return KindScores(
            map=value, recall_at_1=0, map_per_query=0, recall_at_1_per_query=0, queries=1, places=1
        )

    of_situation = SituationScores(crop=kind(score), far=kind(score / 2) if with_far else None)
    row = RowScores(
        **kind(score).model_dump(), crop=kind(score), situations={"unseen_database": of_situation}
    )
    return TrainResult.model_construct(evaluation={"off_the_shelf": row})


def test_scores_are_means_over_the_seeds_of_what_all_have():
    header, rows = seeds._scores([_result(0.4, with_far=True), _result(0.8, with_far=True)])
    assert header == ("network", "unseen photos: crop", "unseen photos: far")
    assert rows == [("off the shelf", "0.6000", "0.3000")]
    header, _ = seeds._scores([_result(0.4, with_far=True), _result(0.8, with_far=False)])
    assert header == ("network", "unseen photos: crop")
