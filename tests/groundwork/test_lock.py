import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from groundwork.lock import FolderInUse, hold

HOLDER = """
import sys, time
from pathlib import Path
from groundwork.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
TAKER = """
import sys
from pathlib import Path
from groundwork.lock import hold
with hold(Path(sys.argv[1])):
    print("held")
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def _refusal(folder: Path) -> str:
    with pytest.raises(FolderInUse) as caught, hold(folder):
        pass
    return str(caught.value)


def test_second_writer_is_told_whom_to_wait_for(tmp_path: Path, holder: "subprocess.Popen[str]") -> None:
    written = json.loads((tmp_path / ".lock").read_text())
    assert _refusal(tmp_path) == (
        f"{tmp_path}: expected a folder that nobody else writes, got one in use by process {holder.pid} on "
        f"{socket.gethostname()} (-c {tmp_path}), which writes it since {written['since']}; "
        "wait for it or choose another"
    )


def test_a_lock_of_a_machine_that_is_gone_can_be_deleted(
    tmp_path: Path, holder: "subprocess.Popen[str]"
) -> None:
    there = {"pid": 7, "host": "node-12", "since": "2026-01-02 03:04:05", "command": ""}
    with (tmp_path / ".lock").open("r+") as file:
        file.write(json.dumps(there).ljust(512))
    assert _refusal(tmp_path) == (
        f"{tmp_path}: expected a folder that nobody else writes, got one in use by process 7 on node-12, "
        "which writes it since 2026-01-02 03:04:05; wait for it or choose another; "
        f"if that machine is gone for good, delete {tmp_path}/.lock"
    )
    (tmp_path / ".lock").unlink()
    with hold(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


def test_a_holder_that_has_not_yet_said_who_it_is(tmp_path: Path, holder: "subprocess.Popen[str]") -> None:
    for content in ("", "[1]", '{"pid": 1}'):
        (tmp_path / ".lock").write_text(content)
        assert "in use by another process, which has just started to write it; wait" in _refusal(tmp_path)


def test_one_process_does_not_write_twice(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with hold(tmp_path):
        assert "in use by this very process; wait" in _refusal(tmp_path / "link")
        taker = subprocess.run([sys.executable, "-c", TAKER, tmp_path], capture_output=True, check=False)
        assert b"FolderInUse" in taker.stderr  # being refused did not give up the lock
    with hold(tmp_path):
        pass


def test_killed_writer_holds_nothing(tmp_path: Path, holder: "subprocess.Popen[str]") -> None:
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with hold(tmp_path):
        pass


def test_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
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


def test_folder_is_made_and_free_again(tmp_path: Path) -> None:
    for _ in range(2):
        with hold(tmp_path / "a" / "b"):
            assert (tmp_path / "a" / "b").is_dir()


def test_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(NotADirectoryError) as caught, hold(path):
            pass
        assert str(caught.value) == (
            f"{path}: expected a folder to write to, got a file; choose another --out"
        )


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with pytest.raises(OSError, match="No locks available") as caught, hold(tmp_path):
        pass
    assert caught.value.strerror == (
        f"{tmp_path}: expected a file system with file locks, got 'No locks available'; "
        "mount it with locks or choose another folder"
    )


def test_lock_file_keeps_its_size(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("x" * 512)
    with hold(tmp_path):
        assert (tmp_path / ".lock").stat().st_size == 512
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
