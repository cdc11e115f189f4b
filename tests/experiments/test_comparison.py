"""Two runs beside each other, from files as training leaves them."""

import json

import pandas as pd
import pytest

from experiments import cli
from experiments.comparison import compare
from groundwork.files import write_json, write_table

# Per query: photo, place, AP off the shelf, AP kept.
QUERIES = [("p.jpg", 0, 0.2, 0.6), ("q.jpg", 0, 0.5, 0.5), ("r.jpg", 3, 0.4, 0.3)]


def _write(run, queries, kept="fine_tuned"):
    rows = []
    for row, column in (("off_the_shelf", 2), ("fine_tuned", 3)):
        for number, query in enumerate(queries):
            rows.append(
                {
                    "row": row,
                    "kind": "crop",
                    "query": query[0],
                    **{"x1": 1, "y1": 2, "x2": 30, "y2": 40, "rotation_deg": 0.5, "seed": number},
                    "place": query[1],
                    "positives": ["s.jpg", "t.jpg"],
                    "junk": [query[0]],
                    "average_precision": query[column],
                }
            )
    write_table(run / "model" / "rankings.parquet", pd.DataFrame(rows))
    write_json(run / "model" / "metrics.json", {"kept": kept})
    return run


@pytest.fixture
def runs(tmp_path):
    other = [("p.jpg", 8, 0.2, 0.5), ("q.jpg", 8, 0.5, 0.9), ("r.jpg", 1, 0.4, 0.2)]
    return _write(tmp_path / "a", QUERIES), _write(tmp_path / "b", other)


def test_known_differences(runs):
    found = compare(*runs)
    assert (found.shared, found.only_a, found.only_b) == (3, 0, 0)
    kept, shelf = found.kinds
    assert (kept.row_a, kept.row_b, kept.kind) == ("fine_tuned", "fine_tuned", "crop")
    # Place 0: -0.1 and +0.4; place 3: -0.1.
    assert kept.by_place.mean == pytest.approx((0.15 - 0.1) / 2)
    assert kept.by_query.mean == pytest.approx(0.2 / 3)
    assert (kept.map_a, kept.map_b) == pytest.approx((0.425, 0.45))
    assert [(one.query, one.a, one.b, one.place) for one in kept.largest_gains] == [("q.jpg", 0.5, 0.9, 0)]
    assert [one.query for one in kept.largest_losses] == ["p.jpg", "r.jpg"]
    assert shelf.row_a == shelf.row_b == "off_the_shelf"
    assert shelf.by_query.mean == 0.0


def test_rows_that_are_kept_are_compared_whatever_they_are(tmp_path):
    found = compare(_write(tmp_path / "a", QUERIES, "off_the_shelf"), _write(tmp_path / "b", QUERIES))
    assert (found.kinds[0].row_a, found.kinds[0].row_b) == ("off_the_shelf", "fine_tuned")
    assert found.kinds[0].by_query.mean == pytest.approx(0.1)


def test_queries_that_are_judged_otherwise_are_left_out(runs):
    path = runs[1] / "model" / "rankings.parquet"
    table = pd.read_parquet(path)
    table["positives"] = [
        ["t.jpg", "s.jpg"] if query == "p.jpg" else ["u.jpg"] if query == "q.jpg" else positives
        for query, positives in zip(table["query"], table["positives"], strict=True)
    ]
    write_table(path, table)
    found = compare(*runs)
    assert (found.shared, found.only_a, found.only_b) == (2, 1, 1)
    assert [one.query for one in found.kinds[0].largest_losses] == ["p.jpg", "r.jpg"]


def test_runs_without_a_query_in_common_are_refused(runs, tmp_path, capsys):
    other = _write(tmp_path / "c", [("z.jpg", 0, 0.1, 0.2)])
    assert cli.main(["compare", str(runs[0]), str(other)]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"cnnimretrieval: compare: expected runs that share held-out queries, got 3 of {runs[0]} and 1 of "
        f"{other} with none in common; compare runs on the same pairs"
    ]


def test_a_run_that_was_not_scored_is_told(runs, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert cli.main(["compare", str(runs[0]), str(tmp_path / "empty")]) == 1
    assert (
        "expected a run that was scored on held-out places, got no rankings.parquet"
        in capsys.readouterr().err
    )


def test_the_command_prints_a_table_or_json(runs, capsys):
    assert cli.main(["compare", str(runs[0]), str(runs[1] / "model"), "--seed", "3"]) == 0
    table = capsys.readouterr().out
    assert "crop queries, fine-tuned: mAP 0.4250 and 0.4500" in table
    assert (
        "by query  +0.0667 (-0.1000 to +0.1500, which may be chance), better on 1 and worse on 2 of 3"
        in table
    )
    assert "  largest losses: p.jpg 0.60 to 0.50, r.jpg 0.30 to 0.20" in table
    assert cli.main(["compare", *map(str, runs), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kinds"][0]["by_query"]["count"] == 3
