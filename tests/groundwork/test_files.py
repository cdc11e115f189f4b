import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from groundwork.files import (
    UNFINISHED,
    atomic_path,
    create_array,
    open_array,
    read_json,
    read_table,
    sweep,
    write_json,
    write_table,
)


def test_a_file_appears_only_when_its_block_ends_well(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "a.txt"
    with atomic_path(target) as unfinished:
        unfinished.write_text("new")
        assert unfinished.parent == target.parent
        assert not target.exists()
    assert target.read_text() == "new"
    assert os.listdir(target.parent) == ["a.txt"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def write_half() -> None:
        with atomic_path(target) as unfinished:
            unfinished.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_replaces_a_full_one(tmp_path: Path) -> None:
    target = tmp_path / "models"
    for content in ("first", "second"):
        with atomic_path(target) as unfinished:
            unfinished.mkdir()
            (unfinished / content).write_text(content)
    assert os.listdir(target) == ["second"]
    assert os.listdir(tmp_path) == ["models"]


def test_a_kill_leaves_a_leftover_that_sweep_removes(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from groundwork.files import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as path:\n"
        "    path.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    target = tmp_path / "deep" / "a.txt"
    subprocess.run([sys.executable, "-c", script, str(target)], check=False, env=_environment())
    (leftover,) = target.parent.iterdir()
    assert leftover.name.startswith(UNFINISHED)
    sweep(tmp_path)
    assert list(target.parent.iterdir()) == []


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def test_tables_and_json_come_back_as_they_were(tmp_path: Path) -> None:
    frame = pd.DataFrame({"name": ["b", "ä\n"], "x": [1.5, -2.0]}, index=[7, 3])
    write_table(tmp_path / "t.parquet", frame)
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.parquet"), frame.reset_index(drop=True))
    write_json(tmp_path / "v.json", {"b": [1, None], "a": "ä"})
    assert read_json(tmp_path / "v.json") == {"a": "ä", "b": [1, None]}
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "nan.json", float("nan"))


def test_an_array_is_made_with_its_room_reserved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = create_array(tmp_path / "a.npy", (1000, 3), np.float32)
    assert (tmp_path / "a.npy").stat().st_blocks * 512 >= 12_000
    rows[7] = 5
    rows.flush()
    stored = np.load(tmp_path / "a.npy")
    assert stored.dtype == np.float32
    assert stored.sum() == 15

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(OSError, match="No space left on device") as error:
        create_array(tmp_path / "b.npy", (10, 3), np.float32)
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(tmp_path / "b.npy"))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"PAR1PAR1", b"PAR1" + bytes(40) + b"PAR1"])
def test_a_damaged_file_is_named_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{path}: expected JSON, got '")):
        read_json(path)
    with pytest.raises(
        ValueError, match=re.escape(f"{path}: expected a Parquet table, got other bytes; delete")
    ):
        read_table(path)


def test_an_array_is_mapped_and_anything_else_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    np.save(path, np.arange(6.0).reshape(2, 3))
    rows = open_array(path)
    assert (rows.tolist(), rows.flags.writeable) == ([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], False)
    np.savez(tmp_path / "archive.npz", rows=rows)
    np.save(tmp_path / "pickled.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "cut.npy").write_bytes(path.read_bytes()[:-1])
    for name in ("archive.npz", "pickled.npy", "cut.npy", "none.npy"):
        other = tmp_path / name
        with pytest.raises(ValueError, match=re.escape(f"{other}: expected an .npy file of numbers, got ")):
            open_array(other)
        with pytest.raises(ValueError, match=r"; mine again$"):
            open_array(other, "mine again")


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    write_table(path, pd.DataFrame({"name": ["a"]}))
    with pytest.raises(ValueError, match=re.escape(f"{path}: expected the column 'place', got none")):
        read_table(path, ["name", "place"])


def test_a_folder_in_the_place_of_a_file_stays_and_is_named(tmp_path: Path) -> None:
    path = tmp_path / "stats.json"
    (path / "somebody's").mkdir(parents=True)
    with pytest.raises(
        IsADirectoryError, match=re.escape(f"{path}: expected a file of ours or none, got a folder")
    ):
        write_json(path, {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["stats.json"]
    assert (path / "somebody's").is_dir()
