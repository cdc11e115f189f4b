"""What `run --dry-run` tells of a folder that an earlier run worked in."""

import pytest
from PIL import Image

from experiments import manifest, rehearsal
from experiments.manifest import Manifest
from experiments.settings import protocol
from experiments.settings.run_config import RunConfig
from groundwork.records import mark_done

RECORDS = {"sfm": "images", "pairs": "mine", "model": "train"}


@pytest.fixture
def states(tmp_path):
    """From settings to the state of each stage, of a run of one photo in tmp_path / "work"."""
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (8, 8)).save(photos / "a.png")

    def of(*overrides: str) -> list[str]:
        settings = protocol.read("small", overrides)
        told = rehearsal.of_photos(photos, tmp_path / "work", settings, device="cpu", workers=1)
        return [line.split(" h  ")[1] for line in told.splitlines() if line.startswith("  ")]

    return of


def _finish(work, *folders: str) -> None:
    for folder in folders:
        (work / folder).mkdir(parents=True, exist_ok=True)
        (work / folder / "file").write_text("it")
        mark_done(work / folder, RECORDS[folder], "key", outputs=[work / folder / "file"])


def _remember(work) -> None:
    config = protocol.read("small", ()).resolve(RunConfig)
    ended = Manifest(
        command=(),
        started="2026-01-01T00:00:00",
        seconds=1.0,
        seed=config.seed,
        protocol="small",
        overrides=(),
        config=config.model_dump(mode="json"),
        weights=config.weights,
        photos="photos",
        input_sha256="",
        packages={},
        machine=manifest.this_machine("cpu"),
        scores={},
    )
    manifest.save(ended, work)


def test_nothing_was_done_yet(states):
    assert states() == ["to do"] * 3


def test_a_stage_that_was_interrupted_is_begun(states, tmp_path):
    (tmp_path / "work" / "sfm").mkdir(parents=True)
    mark_done(tmp_path / "work" / "sfm", "features", "key")
    assert states() == ["begun", "to do", "to do"]


def test_without_a_manifest_nobody_knows_by_which_settings(states, tmp_path):
    _finish(tmp_path / "work", "sfm", "pairs")
    done = "done, if photos and settings are the same"
    assert states() == [done, done, "to do"]


def test_stages_after_a_changed_setting_are_to_be_done_again(states, tmp_path):
    _finish(tmp_path / "work", *RECORDS)
    _remember(tmp_path / "work")
    done = "done, if the photos are the same"
    assert states() == [done] * 3
    again = "to redo, settings changed: pairs.min_overlap"
    assert states("pairs.min_overlap=0.3") == [done, again, again]
    # What a stage left is not there any more.
    (tmp_path / "work" / "model" / "file").unlink()
    assert states() == [done, done, "begun"]
