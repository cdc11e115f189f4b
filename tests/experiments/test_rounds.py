import json
import logging
import os

import numpy as np
import pandas as pd
import pytest

from experiments import manifest, metrics, pipeline, rounds
from experiments.counts import Mining, Reconstruction
from experiments.engine import Engine
from experiments.report.page import write_report
from experiments.settings import protocol
from experiments.settings.run_config import RunConfig
from sfm.pair_table import pair_table

SFM = Reconstruction(images=9, rejected=0, duplicates=0, registered=7, models=2, places=2, seconds=1)
PAIRS = Mining(queries=6, positives=12, clusters=2, places=2, seconds=1)


def write_round(work, tried, trusted, heldout="a.jpg"):
    """The files that a round is counted by."""
    for folder in ("sfm/matches", "pairs"):
        (work / folder).mkdir(parents=True, exist_ok=True)
    for name, pairs in (("sfm/matches/pairs", tried), ("sfm/graph", trusted)):
        table = pair_table(np.array(pairs, dtype=np.int32).reshape(-1, 2), origin="vlad")
        table.to_parquet(work / f"{name}.parquet")
    query = {"query": heldout, "kind": "whole", "positives": [["b.jpg", "c.jpg"]], "far": [[]], "place": 4}
    pd.DataFrame(query).to_parquet(work / "pairs/heldout.parquet")
    images = {"name": ["a.jpg", "z.jpg"], "split": ["val", "train"]}
    pd.DataFrame(images).to_parquet(work / "pairs/images.parquet")


def test_a_round_is_counted_against_the_one_before(tmp_path):
    write_round(tmp_path, [(1, 2), (1, 3), (2, 3), (2, 9)], [(1, 2), (2, 9)])
    first = rounds.count_round(tmp_path, 1, SFM, PAIRS, {})
    assert (first.tried, first.trusted, first.new_tried, first.new_trusted) == (4, 2, 4, 2)
    write_round(tmp_path / "rounds/1", [(1, 2), (1, 3), (2, 3), (2, 9)], [(1, 2), (2, 9)])
    # The pair 2, 9 is no longer trusted; 9, 2 would be none of a table.
    write_round(tmp_path, [(1, 2), (1, 3), (2, 3), (2, 9), (3, 9), (4, 9)], [(1, 2), (1, 3), (3, 9)])
    second = rounds.count_round(tmp_path, 2, SFM, PAIRS, {})
    assert (second.tried, second.trusted, second.new_tried, second.new_trusted) == (6, 3, 2, 2)
    assert second.heldout == first.heldout
    assert str(second) == "round 2: 2 new trusted pairs of 2 tried, 7 photos registered"
    write_round(tmp_path, [(1, 2)], [(1, 2)], heldout="b.jpg")
    assert rounds.count_round(tmp_path, 2, SFM, PAIRS, {}).heldout != first.heldout


def test_the_key_of_a_round_is_that_of_its_settings_and_photos():
    config = RunConfig(seed=3, rounds=2)
    key = rounds.round_key(1, config, "photos")
    assert rounds.round_key(1, RunConfig(seed=3, rounds=5), "photos") == key
    others = [(2, config, "photos"), (1, RunConfig(seed=4, rounds=2), "photos"), (1, config, "other")]
    assert key not in [rounds.round_key(*other) for other in others]


def test_later_rounds_try_what_the_network_before_finds_alike(tmp_path):
    config = RunConfig(rounds=3)
    assert rounds.with_candidates(tmp_path, 1, config) == config
    third = rounds.with_candidates(tmp_path, 3, config)
    assert third.sfm.candidates.descriptors == tmp_path / "rounds/2/descriptors"
    assert third.train == config.train


def test_rounds_need_candidates(tmp_path):
    with pytest.raises(ValueError, match="rounds: expected 1") as error:
        RunConfig.model_validate({"rounds": 2, "sfm": {"from_colmap": str(tmp_path)}})
    assert (
        "rounds: expected 1 with models or pairs from COLMAP, which need no candidates, got 2; "
        "leave one of them out"
    ) in str(error.value)


# Few candidates, so that the first round leaves something to find; and little training in each.
ROUNDS = [
    "rounds=3",
    "sfm.candidates.exhaustive_up_to=5",
    "sfm.candidates.neighbours=1",
    "train.loop.epochs=1",
    "train.loop.tuples_per_epoch=6",
]


@pytest.fixture(scope="module")
def photos(small_demo, short_training):
    (small_demo.parent / "rounds.toml").write_text(short_training)
    return small_demo


def run(photos, work, *overrides):
    config = protocol.read(str(photos.parent / "rounds.toml"), [*ROUNDS, *overrides]).resolve(RunConfig)
    execution = pipeline.Execution(device="cpu", engine=Engine(workers=1))
    return pipeline.run(photos, work, config, execution).metrics


def without_seconds(one):
    told = one.model_dump()
    return told | {part: told[part] | {"seconds": 0} for part in ("sfm", "pairs")}


@pytest.mark.slow
def test_rounds_find_more_are_kept_and_go_on_where_they_were(photos, tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "experiments")
    work = tmp_path / "work"
    found = run(photos, work)
    first, second, *_ = found.rounds
    assert first.new_trusted == first.trusted > 0
    assert second.tried > first.tried
    assert second.tried - first.tried == second.new_tried
    assert found.sfm == found.rounds[-1].sfm
    assert found.evaluation == found.rounds[-1].evaluation
    last = found.rounds[-1]
    assert last.number == 3 or not last.new_trusted
    assert (f"round {last.number} found nothing new: the run ends with it" in caplog.messages) is (
        not last.new_trusted
    )
    tried = pd.read_parquet(work / "sfm/matches/pairs.parquet")
    assert tried["origin"].str.contains("descriptors").any()
    kept = work / "rounds/1"
    assert {path.name for path in kept.iterdir()} >= {"model", "pairs", "sfm", "descriptors", "round.json"}
    assert json.loads((kept / "round.json").read_text())["evaluation"] == first.model_dump()["evaluation"]
    assert manifest.load(work).rounds == [one.model_dump(mode="json") for one in found.rounds]
    assert metrics.load(work) == found
    page = write_report(work).read_text()
    assert "Round after round" in page

    # Again: nothing is done twice.
    times = {path: os.stat(path).st_mtime_ns for path in work.rglob("*.safetensors")}
    caplog.clear()
    assert run(photos, work) == found
    assert {path: os.stat(path).st_mtime_ns for path in work.rglob("*.safetensors")} == times
    assert f"{first}; kept" in caplog.messages

    # A lost file of a kept round: all is done again, and comes to the same.
    (kept / "sfm/graph.parquet").unlink()
    again = run(photos, work)
    assert [without_seconds(one) for one in again.rounds] == [without_seconds(one) for one in found.rounds]

    # One round again: what later ones matched does not count.
    alone = run(photos, work, "rounds=1")
    assert alone.rounds == ()
    assert alone.evaluation == first.evaluation
    assert not (work / "rounds").exists()
