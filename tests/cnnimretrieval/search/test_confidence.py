"""Confidence: how it is learned, what it is applied to, and that nothing is found where nothing fits."""

import json
from dataclasses import replace

import numpy as np
import pytest

import cnnimretrieval as cr
from cnnimretrieval.api import Describer
from cnnimretrieval.descriptors.extract import ExtractConfig, describe
from cnnimretrieval.descriptors.images import ImageRequest
from cnnimretrieval.descriptors.store import extract, read_store
from cnnimretrieval.descriptors.windows import RegionConfig
from cnnimretrieval.evaluation.calibrate import Results, first_results, fit
from cnnimretrieval.evaluation.queries import query_set
from cnnimretrieval.networks.model_folder import save
from cnnimretrieval.search.confidence import (
    CALIBRATION,
    Calibration,
    Curve,
    Sure,
    background,
    depth,
    read_calibration,
)
from cnnimretrieval.search.diffusion import DiffusionConfig
from cnnimretrieval.search.ranking import rank
from cnnimretrieval.search.rerank import RerankConfig
from cnnimretrieval.training.proof.calibrating import calibrate, described_run, results_of
from experiments import cli
from groundwork.files import write_json
from pairs.heldout import write_heldout
from pairs.pair_table import write_pair_table
from tests.cnnimretrieval.conftest import _heldout as held_out_queries

SMALL = ExtractConfig(image_size=64)


def _results(excess, right, place):
    there = np.ones(len(excess), np.bool_)
    right = np.array(right, np.bool_)
    return Results(excess=np.array(excess), right=right, place=np.array(place), there=there, first=there)


def _calibration(curves, network="n", image_size=64, scales=(1.0,)):
    return Calibration(network=network, image_size=image_size, scales=scales, curves=curves, queries=5)


def test_the_curve_of_each_place_is_found_again():
    rng = np.random.default_rng(5)
    excess, place = rng.uniform(-0.2, 0.6, 30_000), rng.integers(4, 7, 30_000)
    slopes, offsets = np.array([12.0, 5.0, 8.0]), np.array([-3.0, 0.5, -2.0])
    logits = slopes[place - 4] * excess + offsets[place - 4]
    curves = fit(_results(excess, rng.uniform(size=30_000) < 1 / (1 + np.exp(-logits)), place))
    assert [curve.slope for curve in curves] == pytest.approx(slopes, rel=0.07)
    assert [curve.offset for curve in curves] == pytest.approx(offsets, abs=0.3)


def test_each_place_weighs_the_same():
    excess, right, place = np.tile([0.1, 0.2, 0.3, 0.2], 3), np.tile([0, 1, 1, 0], 3), np.repeat([1, 2, 3], 4)
    once = fit(_results(excess, right, place))
    more = [*range(12), *[4, 5, 6, 7] * 5]
    again = fit(_results(excess[more], right[more], place[more]))
    assert len(again) == 3
    assert [curve.slope for curve in again] == pytest.approx([curve.slope for curve in once], rel=0.01)


def test_a_place_in_which_nothing_is_found_makes_all_less_sure():
    excess, right = np.tile([-0.1, 0.1, 0.2, 0.6], 4), np.tile([0, 0, 1, 1], 4)
    place = np.repeat([1, 2, 3, 4], 4)
    curves = fit(_results(excess, np.where(place == 3, False, right == 1), place))
    assert curves[2].offset < -5.0
    assert curves[0] == curves[1] == curves[3]
    told = _calibration(curves).confidence(np.array([0.9, 0.5, 5.0]), 0.3)
    assert told[0] > told[1]
    assert told[2] == pytest.approx(0.75, abs=1e-3)


@pytest.mark.parametrize(
    ("right", "place"), [([0, 1, 1], [1, 1, 2]), ([1, 1, 1], [1, 2, 3]), ([0, 0, 0], [1, 2, 3]), ([], [])]
)
def test_too_little_teaches_nothing(right, place):
    assert fit(_results([0.1, 0.2, 0.3][: len(right)], np.array(right, np.bool_), place)) is None


def test_scores_that_fall_with_right_results_teach_nothing():
    assert fit(_results([0.3, 0.1] * 3, [False, True] * 3, [1, 1, 2, 2, 3, 3])) is None


def test_the_background_is_a_rank_or_the_middle():
    scores = np.random.default_rng(0).permutation(np.arange(300.0))
    assert (depth(300), depth(100), depth(9), depth(1)) == (51, 51, 5, 1)
    assert background(scores, 300) == 249.0
    assert background(scores[:9], 9) == np.sort(scores[:9])[4]


@pytest.fixture
def choosing(heldout):
    return [replace(query, purpose="choose") for query in heldout] + heldout


def test_results_are_those_of_searches_with_and_without_the_place(collection, choosing):
    queries = query_set(choosing, collection.table, collection.photos)
    (situation,) = (one for one in queries.situations("choose") if one.name == "own_collection")
    rng = np.random.default_rng(2)
    searched, asked = (rng.normal(size=(n, 4)).astype(np.float32) for n in (16, len(situation.queries)))
    searched /= np.linalg.norm(searched, axis=1, keepdims=True)
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    found = first_results(queries, situation, asked, searched)
    excess, right, first = [], [], []
    for number, vector in zip(situation.queries.tolist(), asked, strict=True):
        near, far, junk = queries.truth(number, situation)
        for gone in ([], [*near, *far, *junk]):
            rows = [row for row in range(16) if row not in gone]
            scores = {row: float(searched[row] @ vector) for row in rows}
            level = sorted(scores.values(), reverse=True)[len(rows) // 2]
            ranked = [row for row in sorted(rows, key=lambda row: -scores[row]) if row not in junk][:10]
            excess += [scores[row] - level for row in ranked]
            right += [row in {*near.tolist(), *far.tolist()} for row in ranked]
            first += [place == 0 for place in range(len(ranked))]
    np.testing.assert_allclose(found.excess, excess, atol=1e-6)
    assert found.right.tolist() == right
    assert found.first.tolist() == first
    assert not found.right[~found.there].any()


def _learned(store):
    made = store.meta.extraction
    curves = (Curve(slope=9.0, offset=-2.0), Curve(slope=3.0, offset=-1.0))
    return _calibration(curves, store.meta.network, made.image_size, made.scales)


@pytest.fixture
def folder(network, photos, tmp_path):
    extract(network, [ImageRequest(path=path) for path in photos], tmp_path, tmp_path / "out", SMALL)
    return tmp_path / "out"


def test_results_say_how_sure_they_are_and_few_are_left(network, photos, folder):
    store = read_store(folder)
    calibration = _learned(store)
    query = ImageRequest(path=photos[2])
    (plain,) = rank(network, store, [query], 4, RerankConfig())
    (told,) = rank(network, store, [query], 4, RerankConfig(), sure=Sure(calibration=calibration))
    scores = np.sort(np.asarray(store.vectors) @ describe(network, [query], SMALL).vectors[0])[::-1]
    excess = scores[:4] - scores[7 // 2]
    expected = (1 / (1 + np.exp(2.0 - 9.0 * excess)) + 1 / (1 + np.exp(1.0 - 3.0 * excess))) / 2
    assert [replace(hit, confidence=None) for hit in told.hits] == list(plain.hits)
    np.testing.assert_allclose([hit.confidence for hit in told.hits], expected, atol=1e-5)
    least = float(np.mean(expected[:2]))
    (few,) = rank(network, store, [query], 4, RerankConfig(), sure=Sure(calibration=calibration, least=least))
    assert few.hits == told.hits[:1]
    (none,) = rank(network, store, [query], 4, RerankConfig(), sure=Sure(calibration=calibration, least=1.0))
    assert none.hits == ()


def test_what_it_was_not_learned_of_is_told(network, photos, tmp_path, folder):
    store = read_store(folder)
    calibration = _learned(store)
    assert calibration.fault(store, RerankConfig()) == ""
    assert calibration.fault(store, RerankConfig(spatial={"features": "sift"})) == ""
    requests = [ImageRequest(path=path) for path in photos]
    parts = extract(network, requests, tmp_path, tmp_path / "r", SMALL, regions=RegionConfig(grids=(2,)))
    larger = extract(network, requests, tmp_path, tmp_path / "l", ExtractConfig(image_size=70))
    network.pool.p.data.add_(0.1)
    other = extract(network, requests, tmp_path, tmp_path / "o", SMALL)
    told = [calibration.fault(one, RerankConfig()) for one in (parts, larger, other)]
    told.append(calibration.fault(store, RerankConfig(diffusion=DiffusionConfig())))
    assert told == [
        "calibration: expected one descriptor a photo, got those of regions, too; extract without --regions",
        "calibration: expected photos at 64 px and scales 1, got 70 px and 1; extract them so",
        "calibration: expected the network and whitening that it was learned of, got another; calibrate this "
        "one",
        "calibration: expected no re-ranking but spatial, got steps that change scores; leave them out",
    ]
    query, sure = [ImageRequest(path=photos[0])], Sure(calibration=calibration, least=0.5)
    with pytest.raises(ValueError, match="calibration: expected the network and whitening"):
        rank(network, other, query, 1, RerankConfig(), sure=sure)
    (answer,) = rank(network, other, query, 1, RerankConfig(), sure=Sure(calibration=calibration))
    assert answer.hits[0].confidence is None


def test_a_model_keeps_its_calibration(network, folder, tmp_path):
    save(network, tmp_path / "model")
    assert read_calibration(tmp_path / "model") is None
    calibration = _learned(read_store(folder))
    path = tmp_path / "model" / CALIBRATION
    write_json(path, calibration.model_dump(mode="json"))
    assert cr.load(tmp_path / "model").calibration == calibration
    path.write_text('{"version": 1}')
    with pytest.raises(ValueError, match="expected what calibrate wrote") as error:
        read_calibration(tmp_path / "model")
    assert str(error.value).startswith(f"calibration {path}: expected what calibrate wrote, got ")


def test_the_command_and_python_leave_out_what_is_not_sure(network, photos, folder, tmp_path, capsys):
    model = tmp_path / "model"
    save(network, model)
    words = ["search", str(model), str(folder), str(photos[2]), "--device", "cpu", "--min-confidence"]
    assert cli.main([*words, "0.9"]) == 1
    assert capsys.readouterr().err == (
        "cnnimretrieval: min_confidence: expected a model with a calibration, got one without; learn it by "
        "cnnimretrieval calibrate MODEL WORK/pairs\n"
    )
    calibration = _learned(read_store(folder))
    write_json(model / CALIBRATION, calibration.model_dump(mode="json"))
    assert cli.main([*words, "1"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["    nothing with a confidence of 1 or more"]
    assert cli.main([*words, "0.01", "--top", "2"]) == 0
    assert all(" %  " in line for line in capsys.readouterr().out.splitlines()[1:])
    assert cli.main([*words[:-1], "--json", "--top", "2"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    (answer,) = cr.search(Describer(network, "cpu", calibration), folder, [photos[2]], top=2)
    assert [hit["confidence"] for hit in told["hits"]] == [round(hit.confidence, 4) for hit in answer.hits]


def test_a_calibration_is_learned_from_the_places_to_choose_by(
    network, pairs_dir, collection, tmp_path, choosing, capsys
):
    model = tmp_path / "model"
    network.config = network.config.model_copy(update={"image_size": 64})
    save(network, model)
    words = ["calibrate", str(model), str(pairs_dir), "--workers", "1", "--device", "cpu"]
    assert cli.main(words) == 1
    assert "expected at least one test query" in capsys.readouterr().err
    write_heldout(choosing, pairs_dir / "heldout.parquet")
    assert cli.main(words) == 1
    assert "expected held-out queries of at least 3 places" in capsys.readouterr().err
    assert not (model / CALIBRATION).exists()
    table = replace(collection.table, is_val=np.isin(collection.table.place, (0, 1, 3)))
    write_pair_table(table, pairs_dir)
    drawn = [replace(query, purpose="choose") for query in held_out_queries(table)]
    write_heldout(drawn, pairs_dir / "heldout.parquet")
    assert cli.main(words) == 0
    assert capsys.readouterr().out.splitlines() == ["18 queries of 3 places", str(model / CALIBRATION)]
    descriptions = described_run(pairs_dir, model, network, "cpu", 0)
    found = read_calibration(model)
    assert found == calibrate(descriptions, network)
    assert found.curves == fit(results_of(descriptions, network, "choose"))
    requests = [collection.whole(row) for row in range(table.num_images)]
    store = extract(network, requests, collection.photos, tmp_path / "dir", SMALL)
    assert found.fault(store, RerankConfig()) == ""
