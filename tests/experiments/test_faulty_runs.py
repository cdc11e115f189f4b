"""Reconstructions that are killed, that meet a full disk, or a folder that cannot be written."""

import random
import shutil
import subprocess
import sys

import pytest

from experiments.benchmarks import faults
from experiments.benchmarks.measuring.fingerprint import fingerprint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return faults.render(tmp_path_factory.mktemp("collection"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of the run that was left alone."""
    return tmp_path_factory.mktemp("alone") / "sfm"


@pytest.fixture(scope="module")
def alone(photos, finished):
    return faults.unbroken(photos, finished)


@pytest.mark.parametrize("victim", faults.VICTIMS)
def test_a_kill_costs_one_task_and_changes_nothing(victim, photos, alone, tmp_path):
    if victim == "cluster":
        pytest.importorskip("distributed")
    fault = faults.strike(victim, photos, tmp_path / "sfm", alone, random.Random(f"test {victim}"))
    assert fault.hit, fault
    assert fault.same, fault
    assert fault.again <= faults.allowed(victim), fault


def command(photos, out):
    words = ["reconstruct", str(photos), "--out", str(out), "--workers", "2"]
    return subprocess.run(
        [sys.executable, "-m", "experiments.cli", *words], capture_output=True, text=True, check=False
    )


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a file system of some size in memory; what makes it larger, and where it is."""
    where = tmp_path / "disk"
    where.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(where)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("a small file system can only be mounted by root, and not in every container")

    def resize(kib):
        subprocess.run(["mount", "-o", f"remount,size={kib}k", str(where)], check=True)

    try:
        yield where, resize
    finally:
        subprocess.run(["umount", str(where)], check=True)


# What each stage writes, in their order, beside its record.
WRITTEN = {
    "scan": ["scan", "collection.parquet"],
    "features": ["features"],
    "candidates": ["candidates.parquet"],
    "matching": ["matches"],
    "graph": ["graph.parquet", "graph-dropped.parquet"],
    "mapping": ["mapping", "models", "models.parquet"],
    "pair lists": ["pairs-candidates.txt", "pairs-verified.txt", "pairs-covisible.txt"],
    "images": ["images.parquet", "stats.json"],
}


@pytest.mark.parametrize("stage", WRITTEN)
def test_a_full_disk_stops_any_stage_and_harms_none(stage, photos, alone, finished, small_disk):
    where, resize = small_disk
    out = where / "sfm"
    resize(100_000)
    shutil.copytree(finished, out)
    stages = list(WRITTEN)
    for later in stages[stages.index(stage) :]:
        for name in (*WRITTEN[later], f"done/{later}.json"):
            path = out / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    resize(shutil.disk_usage(where).used // 1024 + 4)
    stopped = command(photos, out)
    assert stopped.returncode == 1
    assert stopped.stderr.splitlines()[-1] == (
        f"cnnimretrieval: output {out}: expected a folder with room to write, got 'No space left on device'; "
        "make room or choose another folder, and run again to go on"
    )
    assert "Traceback" not in stopped.stderr
    resize(100_000)
    assert command(photos, out).returncode == 0
    assert fingerprint(out) == alone.found


def test_a_read_only_disk(photos, small_disk):
    where, _ = small_disk
    subprocess.run(["mount", "-o", "remount,ro", str(where)], check=True)
    result = command(photos, where / "sfm")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        f"cnnimretrieval: output {where / 'sfm'}: expected a folder with room to write, got 'Read-only file "
        "system'; make room or choose another folder, and run again to go on"
    )
