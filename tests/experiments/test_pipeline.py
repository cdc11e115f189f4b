import logging
import subprocess
import sys

import pandas as pd
import pytest

from cnnimretrieval.descriptors import reading
from cnnimretrieval.training.result import TrainResult
from experiments import manifest, metrics, pipeline
from experiments.engine import Engine
from experiments.exit_codes import UsageFault
from experiments.settings.run_config import RunConfig
from groundwork.files import write_json, write_table
from sfm.reconstruct import PRELOAD

SFM = {
    "images": 12,
    "rejected": 1,
    "duplicates": 2,
    "registered": 7,
    "models": 3,
    "places": 2,
    "seconds": 4.5,
}
PAIRS = {"queries": 6, "positives": 1234, "clusters": 3, "places": 2, "seconds": 0.5}
GAIN = {
    **{"kind": "whole", "map": 0.125, "standard_error": None, "places": 1, "proven": False},
    **{"places_better": 1, "places_worse": 0},
}
TRAIN = {
    **{"backbone": "resnet18", "pooling": "gem", "kept": "fine_tuned", "verdict": "better"},
    **{"gain": GAIN, "gain_by_training": GAIN, "epochs": [], "seconds": 9.5, "missing_negatives": 0},
    **{"image_size": 512, "chosen_on": "places set aside", "initial_share": 0.25, "precision": "float32"},
    **{"curve": [], "whitening": {"off_the_shelf_pca": "of 9 images"}},
}


def scores(value):
    of_kind = {"map": value, "recall_at_1": 1.0, "map_per_query": value, "recall_at_1_per_query": 1.0}
    of_kind |= {"queries": 4, "places": 1}
    return {**of_kind, "whole": of_kind, "situations": {"unseen_database": {"whole": of_kind}}}


EVALUATION = {"off_the_shelf": scores(0.5), "fine_tuned": scores(0.625)}


@pytest.fixture
def calls(monkeypatch):
    """Stages that only say that they were called, and leave the files that the pipeline reads."""
    done = []

    def reconstruct(photos, out, config, executor):
        done.append(("reconstruct", photos, out, config.seed))
        write_json(out / "stats.json", SFM | {"reasons": {"torn": 1}})
        write_table(out / "collection.parquet", pd.DataFrame({"name": ["a.jpg"], "sha256": ["01"]}))

    def mine(sfm, out, config):
        done.append(("mine", sfm, out, config.seed))
        write_json(out / "stats.json", PAIRS | {"dropped": {}})

    def fine_tune(pairs, out, config, *, weights, device, workers):
        done.append(("fine_tune", pairs, out, weights, device, workers))
        return TrainResult.model_validate({"kept": "fine_tuned", "train": TRAIN, "evaluation": EVALUATION})

    def report(work):
        done.append(("report", metrics.load(work).train.kept, manifest.load(work).seed))
        return work / "report/index.html"

    stages = {"reconstruct": reconstruct, "mine": mine, "fine_tune": fine_tune, "_report": report}
    for name, stage in stages.items():
        monkeypatch.setattr(pipeline, name, stage)
    return done


CONFIG = RunConfig(seed=3, weights="random")
EXECUTION = pipeline.Execution(
    device="cpu",
    engine=Engine(workers=1),
    command=("cnnimretrieval", "run"),
    protocol="a.toml",
    overrides=("--set seed=3",),
)


def test_stages_in_order_then_metrics_manifest_and_report(tmp_path, calls, caplog):
    caplog.set_level(logging.INFO, "experiments")
    photos, work = tmp_path / "photos", tmp_path / "work"
    outcome = pipeline.run(photos, work, CONFIG, EXECUTION)
    assert calls == [
        ("reconstruct", photos, work / "sfm", 3),
        ("mine", work / "sfm", work / "pairs", 3),
        ("fine_tune", work / "pairs", work / "model", "random", "cpu", 1),
        ("report", "fine_tuned", 3),
    ]
    assert outcome.report == work / "report/index.html"
    assert metrics.load(work) == outcome.metrics
    assert outcome.metrics.model_dump(mode="json") == {
        "sfm": SFM,
        "pairs": PAIRS,
        "train": TRAIN,
        "evaluation": EVALUATION,
    }
    written = manifest.load(work)
    assert written.config == CONFIG.model_dump(mode="json")
    assert (written.command, written.protocol, written.overrides) == (
        EXECUTION.command,
        EXECUTION.protocol,
        EXECUTION.overrides,
    )
    assert written.scores == EVALUATION
    lines = [record.getMessage().rpartition(", ")[0] for record in caplog.records]
    assert lines == [
        "[1/4] reconstruct: 7 of 12 photos registered (1 rejected, 2 duplicates), 3 models of 2 places",
        "[2/4] mine: 1,234 positives of 6 queries, 3 clusters, 2 places",
        "[3/4] train: kept fine tuned, mAP 0.6250",
        f"[4/4] report: {work / 'report/index.html'}",
    ]


def test_wrong_weights_stop_it_before_any_stage(tmp_path, calls):
    config = RunConfig(weights=str(tmp_path / "none.pth"))
    with pytest.raises(UsageFault) as caught:
        pipeline.run(tmp_path / "photos", tmp_path / "work", config, EXECUTION)
    assert caught.value.lines == (
        f"weights: expected a file, got {tmp_path / 'none.pth'}, which is none; check the path",
    )
    assert calls == []


def test_failed_stage_leaves_no_metrics_of_another_run(tmp_path, calls, monkeypatch):
    pipeline.run(tmp_path / "photos", tmp_path, CONFIG, EXECUTION)
    (tmp_path / "pairs/.unfinished-7-x").write_text("left by a killed process")

    def one_place(*_):
        raise ValueError("mine: expected two places, got 1; add photos")

    monkeypatch.setattr(pipeline, "mine", one_place)
    with pytest.raises(ValueError, match="expected two places"):
        pipeline.run(tmp_path / "photos", tmp_path, CONFIG, EXECUTION)
    assert not (tmp_path / "metrics.json").exists()
    assert not (tmp_path / "manifest.json").exists()
    assert not (tmp_path / "pairs/.unfinished-7-x").exists()


def test_every_folder_of_a_run_is_locked_while_it_goes(tmp_path, calls, monkeypatch):
    held = []
    monkeypatch.setattr(
        pipeline, "hold", lambda folder, hold=pipeline.hold: held.append(folder) or hold(folder)
    )
    pipeline.run(tmp_path / "photos", tmp_path / "work", CONFIG, EXECUTION)
    work = tmp_path / "work"
    assert held == [work, work / "pairs", work / "model"]


def test_processes_of_a_run_have_from_the_start_what_its_stages_need(tmp_path):
    script = (
        "from pathlib import Path; from experiments.engine import Engine; "
        "from groundwork.child import preloaded; "
        "Engine(workers=1).open(Path(), Path()); print(*preloaded())"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert {reading.__name__, *reading.EDITS, *PRELOAD} <= set(found.stdout.split())
