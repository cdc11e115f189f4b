import subprocess
import sys

import numpy as np
import pytest

from experiments.benchmarks import run_memory
from experiments.benchmarks.measuring.pages import Pages, pages_of_family

MB = 1_000_000


def test_pages_of_a_process_and_its_children_are_counted_by_kind(tmp_path):
    with (tmp_path / "mapped.bin").open("wb") as file:
        file.write(bytes(40 * MB))
    script = f"""
import subprocess, sys
import numpy as np
mapped = np.memmap({str(tmp_path / "mapped.bin")!r}, np.uint8, "r")
total = int(mapped[::4096].sum())
child = "import numpy as np, sys; own = np.ones(30_000_000, np.uint8); print('ready', flush=True); input()"
with subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE) as process:
    input()
    process.stdin.close()
"""
    words = [sys.executable, "-c", script]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        seen = pages_of_family(process.pid)
        process.communicate("\n")
    assert 30 * MB < seen.own < 130 * MB
    assert 40 * MB < seen.mapped < 130 * MB
    assert seen.total == seen.own + seen.mapped
    assert pages_of_family(process.pid) == Pages()


def test_a_run_that_fails_is_no_measurement(tmp_path, capsys):
    code = run_memory.main([str(tmp_path / "none"), "--out", str(tmp_path / "work")])
    told = capsys.readouterr()
    assert (code, told.out) == (2, "")
    assert "none" in told.err


def test_a_stage_shorter_than_the_pause_between_two_looks_has_a_peak():
    script = "print('ready', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        with run_memory.Looks(process.pid) as looks:
            peaks = [looks.take() for _ in range(5)]
            process.communicate(b"\n")
    assert min(peak.total for peak in peaks) > MB


@pytest.mark.slow
def test_every_stage_of_a_run_has_its_peak(small_demo, short_training, tmp_path, capsys):
    (tmp_path / "short.toml").write_text(short_training)
    words = [small_demo, "--out", tmp_path / "work", "--protocol", tmp_path / "short.toml", "--workers", 1]
    assert run_memory.main(list(map(str, words))) == 0
    printed = capsys.readouterr().out.splitlines()
    rows = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ")[1:] for line in printed[2:6]}
    assert list(rows) == ["reconstruct", "mine", "train", "report"]
    peaks = np.array([[float(value) for value in row] for row in rows.values()])
    assert (peaks > 0.02).all()
    np.testing.assert_allclose(peaks[:, 2], peaks[:, 0] + peaks[:, 1], atol=0.011)
    assert sum(line.startswith("holds: ") for line in printed) == 2
