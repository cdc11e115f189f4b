import errno
import logging
from types import SimpleNamespace

import numpy as np
import pytest

from groundwork import kept_arrays
from groundwork.kept_arrays import KeptArrays

LIMIT = 1_000_000


def _arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "levels": rng.integers(0, 256, (3, 5, 7), dtype=np.uint8),
        "half": rng.normal(size=(4, 2, 3)).astype(np.float16),
        "single": rng.normal(size=(2, 6)).astype(np.float32)[:, ::2],
        "none": np.empty((0, 3), np.float32),
    }


def _filled(path, limit=LIMIT, key="k"):
    kept = KeptArrays(path, key, limit)
    for name, array in _arrays().items():
        kept.put(name, array)
    return kept


def _check_all(kept):
    for name, array in _arrays().items():
        found = kept.get(name)
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


def test_arrays_come_back_in_this_process_and_in_the_next(tmp_path):
    kept = _filled(tmp_path / "a" / "kept")
    _check_all(kept)
    assert kept.get("other") is None
    assert "half" in kept
    assert "other" not in kept
    kept = KeptArrays(tmp_path / "a" / "kept", "k", LIMIT)
    _check_all(kept)
    kept.put("more", np.arange(5))
    kept = KeptArrays(tmp_path / "a" / "kept", "k", LIMIT)
    _check_all(kept)
    np.testing.assert_array_equal(kept.get("more"), np.arange(5))


def test_a_name_is_written_once(tmp_path):
    kept = _filled(tmp_path / "kept")
    size = kept.num_bytes
    for name, array in _arrays().items():
        kept.put(name, array)
    assert kept.num_bytes == size == sum(array.nbytes for array in _arrays().values())


def test_arrays_of_another_key_are_gone(tmp_path):
    _filled(tmp_path / "kept")
    kept = KeptArrays(tmp_path / "kept", "another", LIMIT)
    assert len(kept) == kept.num_bytes == 0
    kept = KeptArrays(tmp_path / "kept", "k", LIMIT)
    assert len(kept) == 0


@pytest.mark.parametrize("lost", [1, 30, 90, 10_000])
def test_what_a_killed_process_left_half_written_is_as_if_never_there(tmp_path, lost):
    """Data and index cut off anywhere; what is whole stays, the rest can be kept anew."""
    _filled(tmp_path / "whole")
    for cut in (".arrays", ".index"):
        for end in (".arrays", ".index"):
            content = (tmp_path / f"whole{end}").read_bytes()
            (tmp_path / f"kept{end}").write_bytes(content[: max(0, len(content) - lost * (end == cut))])
        kept = KeptArrays(tmp_path / "kept", "k", LIMIT)
        assert len(kept) < 4
        for name in _arrays():
            found = kept.get(name)
            assert found is None or np.array_equal(found, _arrays()[name])
        for name, array in _arrays().items():
            kept.put(name, array)
        _check_all(kept)
        kept = KeptArrays(tmp_path / "kept", "k", LIMIT)
        _check_all(kept)


def test_a_changed_byte_is_noticed_and_the_array_made_again(tmp_path, caplog):
    _filled(tmp_path / "kept")
    data = tmp_path / "kept.arrays"
    content = bytearray(data.read_bytes())
    content[3 * 5 * 7 + 2] ^= 1
    data.write_bytes(content)
    kept = KeptArrays(tmp_path / "kept", "k", LIMIT)
    assert kept.get("half") is None
    assert "half" not in kept
    assert caplog.messages == [f"{data}: the kept array half is damaged; it is made again"]
    kept.put("half", _arrays()["half"])
    _check_all(kept)
    kept = KeptArrays(tmp_path / "kept", "k", LIMIT)
    _check_all(kept)


def test_no_more_than_the_limit_is_kept_and_that_is_said_once(tmp_path, caplog):
    kept = _filled(tmp_path / "kept", limit=150)
    assert {name for name in _arrays() if name in kept} == {"levels"}
    assert kept.num_bytes == 105
    kept.put("tiny", np.zeros(1, np.uint8))
    assert "tiny" not in kept
    assert caplog.messages == [
        f"{tmp_path / 'kept.arrays'}: kept 1 arrays, 0.00 GB, up to its limit; "
        "what is not kept is made each time"
    ]


def test_a_disk_is_not_filled_up(tmp_path, caplog, monkeypatch):
    free = SimpleNamespace(free=(1 << 30) + 110)
    monkeypatch.setattr(kept_arrays.shutil, "disk_usage", lambda folder: free)
    kept = _filled(tmp_path / "kept")
    assert "levels" in kept
    free.free = 1 << 30
    kept.put("more", np.zeros(3))
    assert "more" not in kept
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert caplog.messages[0].endswith("up to a disk with 1.1 GB left; what is not kept is made each time")


def test_a_disk_that_is_full_all_the_same_loses_nothing_that_was_kept(tmp_path, monkeypatch):
    kept = _filled(tmp_path / "kept")

    def full(path, start, content):
        with path.open("r+b") as file:
            file.seek(start)
            file.write(bytes(content)[:2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(kept_arrays, "_write", full)
        kept.put("more", np.arange(9))
    assert "more" not in kept
    _check_all(kept)
    again = KeptArrays(tmp_path / "kept", "k", LIMIT)
    _check_all(again)
    again.put("more", np.arange(9))
    np.testing.assert_array_equal(again.get("more"), np.arange(9))


def test_only_what_is_kept_under_other_names_is_removed(tmp_path):
    kept = _filled(tmp_path / "kept")
    _filled(tmp_path / "other")
    (tmp_path / "photo.jpg").write_text("not ours")
    KeptArrays.remove_others(tmp_path / "kept")
    assert {path.name for path in tmp_path.iterdir()} == {"kept.arrays", "kept.index", "photo.jpg"}
    _check_all(kept)


def test_other_files_of_the_same_name_are_replaced(tmp_path):
    (tmp_path / "kept.index").write_bytes(b"\x00\xff no index\n" * 5)
    (tmp_path / "kept.arrays").write_bytes(b"something")
    kept = _filled(tmp_path / "kept")
    _check_all(kept)
