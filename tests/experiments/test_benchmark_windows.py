"""The benchmarks of windows and of confidence on a made-up run: their yardsticks are right, and they end."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from cnnimretrieval.evaluation.calibrate import Results
from cnnimretrieval.evaluation.heldout import prove
from cnnimretrieval.evaluation.queries import query_set
from cnnimretrieval.networks.model_folder import save
from cnnimretrieval.networks.network import NetworkConfig, build
from cnnimretrieval.search.photo_rows import PhotoRows
from cnnimretrieval.training.photos.descriptions import descriptions_of
from experiments.benchmarks import confidence, regions
from groundwork.files import write_json
from pairs.heldout import write_heldout
from pairs.pair_table import write_pair_table
from tests.cnnimretrieval.conftest import VIEWS, _heldout, _write_collection

CHOOSING, REPORTED = (0, 1, 3), (4,)


@pytest.fixture
def run(tmp_path):
    """The collection and the folder of a run: three places to choose by, one to report of."""
    (tmp_path / "photos").mkdir()
    made = _write_collection(tmp_path / "photos")
    place = made.table.place
    table = replace(
        made.table, is_val=np.isin(place, (*CHOOSING, *REPORTED)), is_choosing=np.isin(place, CHOOSING)
    )
    queries = [
        replace(query, purpose="choose") if query.place in CHOOSING else query for query in _heldout(table)
    ]
    pairs = tmp_path / "work" / "pairs"
    write_pair_table(table, pairs)
    write_heldout(queries, pairs / "heldout.parquet")
    write_json(pairs / "photos.json", {"version": 1, "photos": str(made.photos), "content": "of it"})
    save(build(NetworkConfig(backbone="squeezenet1_1"), "random", seed=3), tmp_path / "work" / "model")
    return replace(made, table=table), queries, tmp_path / "work"


def _run_main(module, monkeypatch, work, *words):
    out = work.parent / "kept"
    monkeypatch.setattr(sys, "argv", [module.__name__, str(work), "--out", str(out), *words])
    return module.main()


def _vectors(n, seed):
    found = np.random.default_rng(seed).normal(size=(n, 6)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.mark.parametrize("number", [0, 1], ids=["held-out photos", "all photos"])
def test_photos_of_several_rows_are_proved_by_the_best_of_them(run, number):
    collection, queries, _ = run
    asked_of = query_set(queries, collection.table, collection.photos)
    situation = asked_of.situations("report")[number]
    photos = len(situation.searched(np.arange(collection.table.num_images)[:, None]))
    asked, searched = _vectors(len(situation.queries), 1), _vectors(3 * photos, 2)
    several = PhotoRows(first_row=np.repeat(np.arange(photos) * 3, 3))
    found = regions.prove_by_photo(asked_of, situation, asked, searched, several)
    best = (asked @ searched.T).reshape(len(asked), photos, 3).max(axis=2)
    # The same scores, of photos that have one row each: column i is the score of photo i.
    assert len(asked) == 2 * VIEWS
    slow = prove(asked_of, situation, np.eye(len(asked), dtype=np.float32), np.ascontiguousarray(best.T))
    assert found.scores == slow.scores
    assert found.situation == slow.situation
    for kind in slow.kinds:
        assert found.kinds[kind].place.tolist() == slow.kinds[kind].place.tolist()


def test_windows_are_measured(run, monkeypatch, capsys):
    _, _, work = run
    assert _run_main(regions, monkeypatch, work, "--image-size", "64", "--grids", "2") == 0
    said = capsys.readouterr().out
    assert "18 queries of purpose choose, 9 photos searched" in said
    rows = [line.split(" | ") for line in said.splitlines() if line.startswith("| whole")]
    assert [row[:3] for row in rows] == [["| whole", "512", "2,048"], ["| whole + 2 x 2", "512", "10,240"]]
    assert all(0.0 < float(score) <= 1.0 for row in rows for score in (row[3], row[5]))
    assert "2 x 2: " in said


def test_windows_of_a_grid_stand_behind_their_photo(run):
    collection, _, work = run
    kept = work.parent / "kept"
    kept.mkdir()
    descriptions = descriptions_of(work / "pairs", kept, 64)
    situation = descriptions.queries.situations("choose")[0]
    network = build(NetworkConfig(backbone="squeezenet1_1"), "random", seed=3)
    windowed = regions.Windowed(descriptions, situation, network)
    vectors, photo_rows = windowed.rows((2,))
    assert photo_rows.photos.tolist() == list(range(0, 5 * len(situation.database), 5))
    whole = descriptions.of(network, "x", [collection.whole(row) for row in situation.database])
    np.testing.assert_allclose(vectors[::5], whole, atol=1e-6)


def _results():
    """Four results of a query with its place and two of one without."""
    return Results(
        excess=np.arange(6.0),
        right=np.array([True, False, True, True, False, False]),
        place=np.zeros(6, np.int64),
        there=np.array([True, True, True, True, False, False]),
        first=np.array([True, False, False, False, True, False]),
    )


def test_stated_confidence_is_held_against_what_is_right():
    stated = np.array([0.96, 0.04, 0.6, 0.5, 0.85, 1.0])
    assert confidence.reliability(_results(), stated) == [
        ["0 to 0.1", "1", "0.040", "0.000"],
        ["0.5 to 0.7", "2", "0.550", "1.000"],
        ["0.8 to 0.9", "1", "0.850", "0.000"],
        ["0.95 to 0.99", "1", "0.960", "1.000"],
        ["0.99 to 1", "1", "1.000", "0.000"],
    ]


def test_what_a_least_confidence_leaves_is_counted():
    stated = np.array([0.96, 0.04, 0.6, 0.5, 0.85, 0.2])
    rows = {row[0]: row[1:] for row in confidence.thresholds(_results(), stated)}
    assert rows["0.3"] == ["0.750", "1.000", "0.000", "1.000"]
    assert rows["0.7"] == ["0.500", "0.333", "0.000", "1.000"]
    assert rows["0.9"] == ["1.000", "0.333", "1.000", "1.000"]
    nothing = {row[0]: row[1:] for row in confidence.thresholds(_results(), stated / 2)}
    assert nothing["0.95"] == ["", "0.000", "1.000", "0.000"]


def test_confidence_is_measured(run, monkeypatch, capsys):
    _, _, work = run
    assert _run_main(confidence, monkeypatch, work, "--image-size", "64") == 0
    said = capsys.readouterr().out
    assert said.startswith("3 places taught it by 18 queries\n")
    # Ten results of each of six queries, with and without its place.
    assert sum(int(line.split(" | ")[1]) for line in said.splitlines() if " to " in line) > 60


def test_too_few_places_are_told(run, monkeypatch, capsys):
    _, queries, work = run
    reported = [query for query in queries if query.purpose == "report"]
    write_heldout(reported, work / "pairs" / "heldout.parquet")
    assert _run_main(confidence, monkeypatch, work, "--image-size", "64") == 1
    assert capsys.readouterr().err == "too few places to choose by, or to report of\n"
