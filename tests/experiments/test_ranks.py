"""The commands that several ranks do together, as torchrun starts them, against one process."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.slow


def _together(*words: object) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*launcher, "-m", "experiments.cli", *map(str, words)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


def test_photos_are_described_and_scored_as_by_one(command, small_demo, weights, tmp_path):
    network = ("squeezenet1_1:gem", "--weights", weights)
    size = ("--image-size", 128, "--device", "cpu")
    code, said, _ = command("extract", network[0], small_demo, "--out", tmp_path / "one", *network[1:], *size)
    assert code == 0
    both = _together(
        "extract", network[0], small_demo, "--out", tmp_path / "two", *network[1:], *size, "--workers", 1
    )
    assert both.returncode == 0, both.stderr
    assert both.stdout == said.replace(str(tmp_path / "one"), str(tmp_path / "two"))
    for name in ("vectors.npy", "images.parquet", "rejected.parquet"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert not list((tmp_path / "two").glob("*part*"))

    names = sorted(path.relative_to(small_demo).as_posix() for path in small_demo.rglob("*.jpg"))
    judged = tmp_path / "judged.json"
    judged.write_text(json.dumps([{"query": names[0], "positives": names[1:4]}]))
    scoring = ("evaluate", network[0], judged, "--data", small_demo, "--json", *network[1:], *size)
    code, said, _ = command(*scoring)
    assert code == 0
    both = _together(*scoring, "--workers", 1)
    assert (both.returncode, both.stdout) == (0, said), both.stderr


def test_a_whole_run_is_that_of_one_process(command, small_demo, short_training, tmp_path):
    protocol = tmp_path / "short.toml"
    protocol.write_text(short_training)
    words = ("--protocol", protocol, "--device", "cpu", "--workers", 1)
    assert command("run", small_demo, "--out", tmp_path / "one", *words)[0] == 0
    both = _together("run", small_demo, "--out", tmp_path / "two", *words)
    assert both.returncode == 0, both.stderr
    found, alone = (json.loads((tmp_path / work / "metrics.json").read_text()) for work in ("two", "one"))
    assert {**found["sfm"], "seconds": 0} == {**alone["sfm"], "seconds": 0}
    assert {**found["pairs"], "seconds": 0} == {**alone["pairs"], "seconds": 0}
    losses = [[epoch["loss"] for epoch in each["train"]["epochs"][1:]] for each in (found, alone)]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    assert (tmp_path / "two" / "report" / "index.html").is_file()
    # Each line once: the rank that helped says nothing.
    assert both.stderr.count("[4/4] report") == 1
    again = _together("run", small_demo, "--out", tmp_path / "two", *words)
    assert (again.returncode, again.stdout) == (0, both.stdout), again.stderr


def test_what_fails_for_rank_0_ends_all(small_demo, tmp_path):
    model, out = tmp_path / "model", tmp_path / "out"
    model.mkdir()
    failed = _together("extract", model, small_demo, "--out", out, "--device", "cpu")
    assert failed.returncode == 1
    told = [line for line in failed.stderr.splitlines() if line.startswith("cnnimretrieval: ")]
    assert len(told) == 1
    assert str(model) in told[0]
    assert not (out / "vectors.npy").exists()
