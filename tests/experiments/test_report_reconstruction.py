import re
from dataclasses import replace

import pandas as pd
import pytest

from experiments.report.page import write_report
from experiments.report.reading import read_run
from experiments.report.reconstruction import (
    YieldRow,
    model_measures,
    model_rows,
    stage_facts,
    stage_rows,
    yield_rows,
)
from groundwork.files import write_json, write_table

STAGES = {
    "mapping": {"seconds": 8.25, "models": 2, "killed": {"out of memory": 1, "took too long": 3}},
    "matching": {
        **{
            "seconds": 43.25,
            "cpu_seconds": 81.5,
            "peak_bytes": 203_517_952,
            "parent_peak_bytes": 181_129_216,
        },
        **{"tasks": 1019, "retries": 2, "quarantined": 1, "pairs": 8729, "verified": 3592},
    },
    "graph": {"seconds": 0.25, "places": 2, "yield": {"vlad": {"tried": 4, "trusted": 1, "share": 0.25}}},
    "extra": {"seconds": 0.5, "kinds": {"one": {"share": 0.5, "pairs": 1200}}},
}
SFM = {
    **{"images": 9, "rejected": 0, "duplicates": 0, "registered": 7, "models": 2, "places": 2},
    **{"seconds": 52.0, "reasons": {}, "stages": STAGES},
}
MODELS = pd.DataFrame(
    {
        "model": [0, 1, 2],
        "place": [0, 0, 3],
        "way": ["incremental", "global", "incremental"],
        "images": [40, 4, 12],
        "registered_share": [0.5, 1.0, 0.75],
        "points": [4010, 77, 1205],
        "track_length": [3.5, 2.25, 6.0],
        "observations": [351.0, 40.0, 602.4],
        "reprojection_error_px": [0.61, 0.33, 0.95],
        "seconds": [7.0, 0.5, 1.0],
    }
)
TRIED = pd.DataFrame(
    {"origin": ["vlad", "vlad+gps", "gps", "vlad", "vlad+gps"], "inliers": [0, 50, 31, 16, 0]}
)
TRUSTED = pd.DataFrame({"origin": ["vlad+gps", "gps"]})


@pytest.fixture
def work(tmp_path):
    """A reconstruction without anything after it."""
    write_json(tmp_path / "sfm/stats.json", SFM)
    write_table(tmp_path / "sfm/models.parquet", MODELS)
    write_table(tmp_path / "sfm/matches/pairs.parquet", TRIED.assign(image_id1=1, image_id2=2))
    write_table(tmp_path / "sfm/graph.parquet", TRUSTED.assign(place=0))
    return tmp_path


def test_stages_come_in_their_order_with_what_is_known(work):
    files = replace(read_run(work), pairs={"seconds": 0.75}, train={"seconds": 63.5})
    rows = stage_rows(files)
    assert [row.stage for row in rows] == ["matching", "graph", "mapping", "extra", "mining", "training"]
    assert [row.seconds for row in rows] == [43.25, 0.25, 8.25, 0.5, 0.75, 63.5]
    matching, _, mapping, *_ = rows
    assert (matching.cpu_seconds, matching.tasks, matching.retries, matching.quarantined) == (
        *("81.5", "1,019"),
        *("2", "1"),
    )
    assert (matching.task_memory, matching.parent_memory) == ("204 MB", "181 MB")
    assert {mapping.cpu_seconds, mapping.tasks, mapping.task_memory, mapping.retries} == {"–"}


def test_counts_of_stages_are_told_and_reasons_spelt_out():
    assert stage_facts(SFM) == [
        ("matching", [("pairs", "8,729"), ("verified", "3,592")]),
        ("graph", [("places", "2")]),
        ("mapping", [("models", "2"), ("killed: took too long", "3"), ("killed: out of memory", "1")]),
        ("extra", [("kinds: one: share", "0.5"), ("kinds: one: pairs", "1,200")]),
    ]


def test_a_pair_counts_for_each_of_its_sources():
    assert yield_rows(TRIED, TRUSTED) == [
        YieldRow(origin="near in VLAD of the photos' SIFT", pairs=4, verified=2, trusted=1),
        YieldRow(origin="taken near each other", pairs=3, verified=2, trusted=2),
    ]
    assert yield_rows(TRIED, TRUSTED)[0].share == 0.25


def test_models_are_summed_up_by_least_median_and_most():
    measures = dict(model_measures(MODELS))
    assert measures["photos"] == ["4", "12", "40"]
    assert measures["share of its component's photos"] == ["50%", "75%", "100%"]
    assert measures["reprojection error in px, mean"] == ["0.33", "0.61", "0.95"]
    assert model_measures(MODELS.head(0)) == model_measures(pd.DataFrame()) == []


def test_models_are_listed_as_far_as_they_are_described():
    header, rows = model_rows(MODELS, 2)
    assert header[:4] == ["model", "place", "way", "photos"]
    assert rows == [
        ["0", "0", "incremental", "40", "50%", "4,010", "3.50", "351", "0.61", "7.0"],
        ["1", "0", "global", "4", "100%", "77", "2.25", "40", "0.33", "0.5"],
    ]
    header, rows = model_rows(MODELS[["model", "place", "points"]], 9)
    assert (header, rows[2]) == (["model", "place", "points"], ["2", "3", "1,205"])


def shown(work):
    page = write_report(work).read_text(encoding="utf-8")
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.S))


def test_the_page_has_the_tables(work):
    text = shown(work)
    for words in (
        "taken near each other 3 2 2 66.7%",
        "points 77 1,205 4,010",
        "Models by the way they were found: incremental 2, global 1.",
        "killed: took too long 3",
        "matching 43.2 81.5 1,019 204 MB 181 MB 2 1",
        "extra 0.5 – – – – – –",
    ):
        assert words in text


def test_an_older_run_without_these_facts_has_a_page_too(work):
    for name in ("models.parquet", "matches/pairs.parquet"):
        (work / "sfm" / name).unlink()
    text = shown(work)
    for words in ("Candidate pairs by source", "Quality of the models"):
        assert words not in text
    assert "What each stage counted" in text
