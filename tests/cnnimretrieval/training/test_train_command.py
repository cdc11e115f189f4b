"""The command `train`, alone and under torchrun, stopped in every way: it goes on as if it had not been."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

_KILLS = 6

PROTOCOL = """
weights = "random"
[train]
keep = "fine_tuned_whitened"
[train.network]
backbone = "squeezenet1_1"
[train.loop]
image_size = 64
epochs = 2
tuples_per_epoch = 50
batch_tuples = 2
learning_rate = 1e-5
margin = 1.2
[train.whitening]
shrinkage = 0.1
dim = 12
[train.watch]
checkpoint_minutes = 0
"""


def _command(pairs_dir: Path, out: Path, *, ranks: int) -> list[str]:
    protocol = out.parent / "tiny.toml"
    protocol.write_text(PROTOCOL)
    words = ["train", pairs_dir, "--out", out, "--protocol", protocol, "--device", "cpu", "--workers", 1]
    together = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    launcher = together if ranks > 1 else []
    return [sys.executable, *launcher, "-m", "experiments.cli", *map(str, words)]


def _started(command, **options) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)


def _steps(out: Path) -> list[float]:
    lines = (out / "steps.jsonl").read_text().splitlines(keepends=True)
    told = [json.loads(line) for line in lines if line.endswith("\n")]
    return [line["loss"] for line in told if "step" in line]


def _out_of_disk(command, out: Path) -> str:
    """What a training says that may write no file as large as its checkpoint after the first step."""
    import resource

    # A limit on files is reported by the same call in the same way as a disk without room.
    most = 5_000_000
    limits = (resource.RLIMIT_FSIZE, (most, most))
    with _started(command, preexec_fn=lambda: resource.setrlimit(*limits)) as process:
        said = process.communicate()[1]
    assert process.returncode == 1
    lines = [line for line in said.splitlines() if line.startswith("cnnimretrieval: ")]
    full = (
        f"cnnimretrieval: {out / 'checkpoint.pt'}: expected free space on the disk, got 'file too large'; "
        "free some and run it again"
    )
    # The other rank says, if torchrun lets it, that it is alone.
    gone = [line for line in lines if line.startswith("cnnimretrieval: rank 1 of 2: expected all")]
    assert sorted(lines) == sorted([full, *gone])
    assert "Traceback" not in said.partition(full)[0]
    assert 0 < (out / "checkpoint.pt").stat().st_size < most
    assert not list(out.glob(".unfinished*"))
    return said


def test_torchrun_trains_as_one_process_does_and_goes_on_after_a_killed_rank(pairs_dir, tmp_path):
    for name, ranks in (("one", 1), ("two", 2)):
        with _started(_command(pairs_dir, tmp_path / name, ranks=ranks)) as process:
            said = process.communicate()
        assert process.returncode == 0, said
        assert said[0].count(str(tmp_path / name)) == 1  # what came out is told once
    one, two = _steps(tmp_path / "one"), _steps(tmp_path / "two")
    assert len(one) == 50
    np.testing.assert_allclose(two, one, rtol=1e-4)

    for killed in (0, 1):
        out = tmp_path / f"killed-{killed}"
        command = _command(pairs_dir, out, ranks=2)
        with _started(command) as process:
            while not (out / "steps.jsonl").exists() or len(_steps(out)) < 10:
                assert process.poll() is None
                time.sleep(0.05)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(int(children[killed]), signal.SIGKILL)
            said = process.communicate()
        assert process.returncode == 1
        assert f"rank      : {killed}" in said[1]
        assert len(_steps(out)) < 50
        _goes_on(command, out, two)

    out = tmp_path / "full"
    command = _command(pairs_dir, out, ranks=2)
    assert "rank      : 0" in _out_of_disk(command, out)
    _goes_on(command, out, two)


def _goes_on(command, out: Path, expected: list[float]) -> None:
    with _started(command) as process:
        said = process.communicate()
    assert process.returncode == 0, said
    assert _steps(out) == expected
    # No rank left anything behind.
    assert not list(out.glob("inputs*"))


def _worked(command, out: Path, limit: float) -> float | None:
    """Seconds of the command since it held its folder; None if it was killed because it took the limit."""
    with _started(command, env=os.environ | {"OMP_NUM_THREADS": "1"}) as process:
        while f'"pid": {process.pid},' not in _holder(out) and process.poll() is None:
            time.sleep(0.01)
        started = time.monotonic()
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        seconds, said = time.monotonic() - started, process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), said
    return None if process.returncode else seconds


def _holder(out: Path) -> str:
    return (out / ".lock").read_text() if (out / ".lock").exists() else ""


def _result(out: Path) -> tuple[dict[str, bytes], list[float]]:
    """The files of the network, and the losses of its steps."""
    return {path.name: path.read_bytes() for path in out.glob("*.safetensors")}, _steps(out)


def _short(pairs_dir: Path, out: Path) -> list[str]:
    return [*_command(pairs_dir, out, ranks=1), "--set", "train.loop.tuples_per_epoch=10"]


def test_killed_at_random_moments_of_any_part_it_ends_with_the_same_files(pairs_dir, tmp_path):
    whole, moments = tmp_path / "whole", random.Random(0)
    seconds = _worked(_short(pairs_dir, whole), whole, 600.0)
    expected = _result(whole)
    assert set(expected[0]) == {"weights.safetensors", "whitening.safetensors"}
    kills = ends = 0
    while kills < _KILLS:
        out = tmp_path / f"killed-{ends}"
        if _worked(_short(pairs_dir, out), out, moments.uniform(0.0, seconds)) is None:
            kills += 1
        else:
            assert _result(out) == expected
            ends += 1
    assert _worked(_short(pairs_dir, out), out, 600.0) is not None
    assert _result(out) == expected
