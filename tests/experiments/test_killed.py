"""A run that is killed in each of its stages ends, when started again, like one that never stopped."""

import json
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.slow

# What lies in WORK once the stage to be killed has begun and is not yet done.
BEGUN = {
    "features": "sfm/done/scan.json",
    "matching": "sfm/done/candidates.json",
    "mapping": "sfm/done/graph.json",
    "mine": "sfm/done/images.json",
    "train": "model/checkpoint.pt",
    "report": "manifest.json",
}


@pytest.fixture(scope="module")
def photos(small_demo, short_training):
    (small_demo.parent / "tiny.toml").write_text(short_training)
    return small_demo


def start(photos, work):
    words = ["run", photos, "--out", work, "--protocol", photos.parent / "tiny.toml"]
    command = [sys.executable, "-m", "experiments.cli", *map(str, words), "--workers", "1", "--device", "cpu"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(photos, work):
    with start(photos, work) as process:
        said = process.communicate()[1]
    assert process.returncode == 0, said
    return without_seconds(json.loads((work / "metrics.json").read_text(encoding="utf-8")))


def without_seconds(value):
    if isinstance(value, dict):
        return {key: without_seconds(inner) for key, inner in value.items() if key != "seconds"}
    return [without_seconds(inner) for inner in value] if isinstance(value, list) else value


def kill_once_there(photos, work, path):
    with start(photos, work) as process:
        while not path.exists() and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        said = process.communicate()[1]
    assert process.returncode == -signal.SIGKILL, said


def test_killed_in_every_stage(photos, tmp_path):
    unbroken = finish(photos, tmp_path / "unbroken")
    for path in BEGUN.values():
        kill_once_there(photos, tmp_path / "broken", tmp_path / "broken" / path)
    assert finish(photos, tmp_path / "broken") == unbroken
    assert list((tmp_path / "broken").rglob(".unfinished-*")) == []


def test_second_run_waits_for_nobody(photos, tmp_path):
    with start(photos, tmp_path) as first:
        while not (tmp_path / "sfm/done/scan.json").exists() and first.poll() is None:
            time.sleep(0.01)
        with start(photos, tmp_path) as second:
            said = second.communicate()[1]
        first.kill()
        first.communicate()
    assert second.returncode == 1
    assert said.splitlines()[-1].startswith(
        f"cnnimretrieval: {tmp_path}: expected a folder that nobody else writes, got one in use by process "
        f"{first.pid} on "
    )
