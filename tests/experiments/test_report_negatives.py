import pandas as pd

from experiments.report.sheets import negatives_sheet
from experiments.report.thumbnails import Thumbnails

FIRST = pd.DataFrame(
    {"epoch": 1, "query": ["a", "b", "c", "d"], "negatives": [["k", "l"], ["k", "l"], ["k", "l"], ["m", "n"]]}
)
LAST = pd.DataFrame(
    {"epoch": 7, "query": ["c", "b", "a", "e"], "negatives": [["k", "o"], ["p", "o"], ["l", "k"], ["m", "n"]]}
)


def test_queries_of_both_epochs_whose_negatives_changed_most():
    rows = negatives_sheet(FIRST, LAST, Thumbnails(None), rows=2)
    assert [row.query.name for row in rows] == ["b", "c"]
    assert [picture.name for picture in rows[0].first] == ["k", "l"]
    assert [picture.name for picture in rows[0].last] == ["p", "o"]
    assert rows[0].last_epoch == 7


def test_one_epoch_shows_nothing():
    assert negatives_sheet(FIRST, FIRST, Thumbnails(None)) == ()
    assert negatives_sheet(None, LAST, Thumbnails(None)) == ()
