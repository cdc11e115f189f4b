import pandas as pd
import pytest

from experiments.report.queries import difference, paired, place_rows
from experiments.report.sheets import ranking_sheet
from experiments.report.thumbnails import Thumbnails

AFTER = "fine_tuned_whitened"
# kind, query, place, AP before, AP after.
QUERIES = [
    ("crop", "a.jpg", 4, 0.2, 0.5),
    ("crop", "b.jpg", 4, 0.6, 0.5),
    ("crop", "c.jpg", 7, 0.5, 0.1),
    ("crop", "d.jpg", 2, 0.3, 0.3),
    ("whole", "a.jpg", 4, 0.1, 0.9),
]


@pytest.fixture
def rankings():
    rows = [
        {
            **{"row": row, "kind": kind, "query": query, "place": place, "average_precision": values[number]},
            **{"x1": 0, "y1": 0, "x2": 9, "y2": 9, "rotation_deg": 0.0, "seed": 1},
            **{"ranked": ["e.jpg"], "positives": ["e.jpg"], "junk": []},
        }
        for number, row in enumerate(("off_the_shelf", AFTER))
        for kind, query, place, *values in QUERIES
    ]
    return pd.DataFrame(rows)


def test_queries_of_the_kind_that_decides_are_paired(rankings):
    both = paired(rankings.sample(frac=1.0, random_state=3), AFTER)
    assert list(both["query"]) == ["a.jpg", "d.jpg", "b.jpg", "c.jpg"]
    assert both["change"].tolist() == pytest.approx([0.3, 0.0, -0.1, -0.4])
    whole = paired(rankings[rankings["kind"] == "whole"], AFTER)
    assert whole["change"].tolist() == pytest.approx([0.8])


def test_places_with_the_largest_loss_first(rankings):
    rows = place_rows(paired(rankings, AFTER))
    assert [(row.place, row.queries, row.rose, row.fell) for row in rows] == [
        (7, 1, 0, 1),
        (2, 1, 0, 0),
        (4, 2, 1, 1),
    ]
    assert rows[2].before == pytest.approx(0.4)
    assert rows[2].change == pytest.approx(0.1)


def test_the_mean_is_over_places(rankings):
    found = difference(paired(rankings, AFTER))
    assert found.mean == pytest.approx((0.1 - 0.4 + 0.0) / 3)
    assert difference(paired(rankings, AFTER)[:0]) is None


def test_pictures_are_of_the_largest_gains_and_losses(rankings):
    rows = ranking_sheet(rankings, AFTER, Thumbnails(None), best=1, worst=1)
    assert [(row.query.name, row.before_ap, row.after_ap) for row in rows] == [
        ("a.jpg", 0.2, 0.5),
        ("c.jpg", 0.5, 0.1),
    ]
