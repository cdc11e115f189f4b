import hashlib
import os
from pathlib import Path

import pytest

from groundwork.files import (
    discard,
    read_json,
)
from groundwork.records import (
    finish,
    forget,
    last_done,
    load_done,
    mark_done,
    prune,
    record_of,
    records_in,
    verify,
)


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


def test_a_record_can_be_read_and_forgotten_without_its_files(tmp_path: Path) -> None:
    path = _finished(tmp_path)
    path.unlink()
    record = record_of(tmp_path, "mapping")
    assert record is not None
    assert record.facts == {"n": 2}
    assert list(records_in(tmp_path, "map*")) == [record]
    assert list(records_in(tmp_path, "match*")) == []
    forget(tmp_path, "mapping")
    assert record_of(tmp_path, "mapping") is None


def test_rot_that_keeps_size_and_time_is_found_by_reading_everything(tmp_path: Path) -> None:
    folder = tmp_path / "sfm"
    path = _finished(folder)
    before = path.stat()
    assert verify(tmp_path) == []
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    path.write_bytes(b"12X45")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert load_done(folder, "mapping", "k1") is not None, "size and time are trusted"
    assert verify(tmp_path) == [path]
    assert load_done(folder, "mapping", "k1") is None
    path.unlink()
    assert verify(tmp_path) == []
