import os
import signal
import subprocess
import sys
import time

import pytest

from experiments.faults import UsageFault
from experiments.lock import FolderInUse, hold

HOLDER = """
import sys, time
from pathlib import Path
from experiments.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
TAKER = """
import sys
from pathlib import Path
from experiments.lock import hold
with hold(Path(sys.argv[1])):
    print("held")
"""


@pytest.fixture
def holder(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_second_writer_is_told_whom_to_wait_for(tmp_path, holder):
    with pytest.raises(FolderInUse) as caught, hold(tmp_path):
        pass
    text = str(caught.value)
    assert text.startswith(
        f"{tmp_path}: expected a folder that nobody else writes, got one in use by process {holder.pid} on "
    )
    assert text.endswith("; wait for it or choose another")


def test_killed_writer_holds_nothing(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    started = time.monotonic()
    with hold(tmp_path):
        assert time.monotonic() - started < 1


def test_forked_child_does_not_keep_the_lock(tmp_path):
    with hold(tmp_path):
        child = subprocess.Popen(["sleep", "30"], close_fds=False)
    try:
        taken = subprocess.run(
            [sys.executable, "-c", TAKER, tmp_path], capture_output=True, text=True, check=False
        )
        assert taken.stdout == "held\n", taken.stderr
    finally:
        child.kill()
        child.wait()


def test_folder_is_made_and_free_again(tmp_path):
    for _ in range(2):
        with hold(tmp_path / "a" / "b"):
            assert (tmp_path / "a" / "b").is_dir()


def test_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageFault) as caught, hold(path):
            pass
        assert caught.value.lines == (
            f"{path}: expected a folder to write to, got a file; choose another --out",
        )


def test_lock_file_keeps_its_size(tmp_path):
    (tmp_path / ".lock").write_text("x" * 256)
    with hold(tmp_path):
        assert (tmp_path / ".lock").stat().st_size == 256
        assert (tmp_path / ".lock").read_text().startswith(f'{{"pid": {os.getpid()}, ')
