import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sfm.settings import Settings
from sfm.store import (
    UNFINISHED,
    atomic_path,
    create_array,
    discard,
    finish,
    key_of,
    key_of_table,
    last_done,
    load_done,
    mark_done,
    prune,
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
        "import os, signal, sys; from pathlib import Path; from sfm.store import atomic_path\n"
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


class _Config(Settings):
    size: int = 3


def test_keys_tell_values_apart_and_ignore_order() -> None:
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
    assert key_of((1, 2)) == key_of([1, 2])
    distinct = [key_of(1), key_of("1"), key_of(1.5), key_of([1]), key_of(None), key_of(_Config(size=4))]
    assert len(set(distinct)) == len(distinct)
    assert key_of(_Config()) == key_of(_Config(size=3))
    with pytest.raises(TypeError, match="expected plain values or Settings, got PosixPath"):
        key_of(Path("a"))


def _finished(out: Path) -> Path:
    """A stage that is done, and its file."""
    path = out / "models" / "0" / "points.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"12345")
    mark_done(out, "mapping", "k1", facts={"n": 2}, outputs=[out / "models"])
    return path


def test_a_record_counts_only_with_its_key_and_whole_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = _finished(tmp_path)
    record = load_done(tmp_path, "mapping", "k1")
    assert record is not None
    assert record.facts == {"n": 2}
    assert record.outputs["models/0/points.bin"].size == 5
    assert record.outputs["models/0/points.bin"].sha256 == hashlib.sha256(b"12345").hexdigest()
    assert load_done(tmp_path, "mapping", "k2") is None
    assert load_done(tmp_path, "matching", "k1") is None
    assert last_done(tmp_path, "mapping") == record
    assert last_done(tmp_path, "matching") is None
    assert caplog.messages == []
    path.unlink()
    assert load_done(tmp_path, "mapping", "k1") is None
    assert last_done(tmp_path, "mapping") is None
    assert caplog.messages == [f"{path}: missing; mapping is done again"] * 2


@pytest.mark.parametrize("content", [b"", b"1234", b"12X45", b"123456"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    path = _finished(tmp_path)
    path.write_bytes(content)
    assert load_done(tmp_path, "mapping", "k1") is None
    assert caplog.messages == [f"{path}: damaged, or changed since; mapping is done again"]


def test_a_copied_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _finished(tmp_path)
    before = load_done(tmp_path, "mapping", "k1")
    os.utime(path, (7, 7))
    after = load_done(tmp_path, "mapping", "k1")
    assert after is not None
    assert before is not None
    assert after.outputs.keys() == before.outputs.keys()

    def forbidden(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("hashlib.file_digest", forbidden)
    again = load_done(tmp_path, "mapping", "k1")
    assert again is not None
    assert again.outputs["models/0/points.bin"].modified_ns == 7_000_000_000


def test_a_damaged_record_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mark_done(tmp_path, "scan", "k", facts={"n": 123})
    path = tmp_path / "done" / "scan.json"
    whole = path.read_bytes()
    assert read_json(path)["facts"] == {"n": 123}
    damaged = [b"", b"{", whole[:-20], whole.replace(b"123", b"124"), whole.replace(b'"k"', b'"l"')]
    for content in damaged:
        path.write_bytes(content)
        assert load_done(tmp_path, "scan", "k") is None
    assert caplog.messages == [f"{path}: the record of scan is damaged; it is done again"] * len(damaged)
    path.write_bytes(whole)
    assert load_done(tmp_path, "scan", "k") is not None


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


def test_the_key_of_a_table_tells_rows_names_and_order_apart() -> None:
    table = pd.DataFrame({"name": ["b", "a", "ä"], "x": [1, 2, 3]})
    assert key_of_table(table.set_index(pd.Index([5, 6, 7]))) == key_of_table(table)
    others = [table[::-1], table[:2], table.rename(columns={"x": "y"}), table.assign(x=[1, 2, 4]), table[:0]]
    keys = {key_of_table(other) for other in [*others, table]}
    assert len(keys) == len(others) + 1


def test_discarded_and_pruned_results_are_gone_with_their_records(tmp_path: Path) -> None:
    for number in range(3):
        path = tmp_path / f"block-{number}.npz"
        path.touch()
        mark_done(tmp_path, path.stem, "k", outputs=[path])
    mark_done(tmp_path, "other", "k")
    prune(tmp_path, "block-*", {"block-1"})
    assert sorted(os.listdir(tmp_path)) == ["block-1.npz", "done"]
    assert sorted(os.listdir(tmp_path / "done")) == ["block-1.json", "other.json"]
    discard(tmp_path / "done")
    discard(tmp_path / "done")
    assert os.listdir(tmp_path) == ["block-1.npz"]


def _grow(out: Path, content: str) -> None:
    def write(unfinished: Path) -> None:
        unfinished.write_text(content)

    basis = {"content": content}
    finish(out, "pairs", content, out / "pairs.txt", write, seconds=1.0, facts={}, basis=basis)


@pytest.mark.parametrize(("last_moment", "expected"), [("file renamed", "old"), ("record renamed", "new")])
def test_a_file_and_its_record_change_together(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    last_moment: str,
    expected: str,
) -> None:
    _grow(tmp_path, "old")
    rename = Path.replace

    def end_before(source: Path, target: Path) -> Path:
        if target.name == {"file renamed": "pairs.txt", "record renamed": "pairs.json"}[last_moment]:
            raise KeyboardInterrupt
        return rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", end_before)
        with pytest.raises(KeyboardInterrupt):
            _grow(tmp_path, "new")
    assert (tmp_path / "done" / "pairs.announced.json").exists()
    record = last_done(tmp_path, "pairs")
    assert record is not None
    assert record.basis == {"content": expected}
    assert (tmp_path / "pairs.txt").read_text() == expected
    assert os.listdir(tmp_path / "done") == ["pairs.json"]
    assert caplog.messages == []
    _grow(tmp_path, "newer")
    assert load_done(tmp_path, "pairs", "newer") is not None
