import os
from pathlib import Path

import pytest

from groundwork.folder import list_files, reasons_by_name, usable_names


def test_files_come_by_name_with_what_tells_a_change(tmp_path: Path) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / "b" / "c" / "two.jpg").write_bytes(b"12")
    (tmp_path / "a.jpg").write_bytes(b"12345")
    os.utime(tmp_path / "a.jpg", ns=(7, 1_234_567_890))
    found = list_files(tmp_path, leave_out=tmp_path / "out")
    assert found["name"].tolist() == ["a.jpg", "b/c/two.jpg"]
    assert found["size"].tolist() == [5, 2]
    assert found["modified_ns"][0] == 1_234_567_890
    assert found["reason"].tolist() == ["", ""]


def test_an_empty_folder_is_a_table_without_rows(tmp_path: Path) -> None:
    found = list_files(tmp_path, leave_out=tmp_path / "out")
    assert found.dtypes.astype(str).to_dict() == {
        "name": "str",
        "size": "int64",
        "modified_ns": "int64",
        "reason": "str",
    }
    assert not len(found)


def test_what_is_no_file_has_a_reason_and_the_output_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model.bin").write_bytes(b"1")
    (tmp_path / "link").symlink_to(tmp_path / "photos", target_is_directory=True)
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    os.mkfifo(tmp_path / "pipe")
    found = list_files(tmp_path, leave_out=tmp_path / "out").set_index("name")
    assert found["reason"].to_dict() == {
        "gone.jpg": "cannot be read: No such file or directory",
        "link": "link to a folder that is searched already",
        "pipe": "not a regular file",
    }
    assert (found["size"] == 0).all()


def _tree(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"1")


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    photos, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    _tree(photos, "own/a.jpg")
    _tree(elsewhere, "b.jpg", "deep/c.jpg")
    (photos / "album").symlink_to(elsewhere)
    (photos / "album again").symlink_to(elsewhere)
    (photos / "part").symlink_to(elsewhere / "deep")
    (photos / "me").symlink_to(photos)
    (photos / "own" / "back").symlink_to("..")
    (photos / "above").symlink_to(tmp_path)
    (photos / "root").symlink_to("/")
    (elsewhere / "round").symlink_to(photos / "own")
    (elsewhere / "self").symlink_to(elsewhere)
    found = list_files(photos)
    assert usable_names(found) == ["album/b.jpg", "album/deep/c.jpg", "own/a.jpg"]
    assert reasons_by_name(found) == {
        "above": "link to a folder around this one",
        "root": "link to a folder around this one",
        **dict.fromkeys(
            ["album again", "album/round", "album/self", "me", "own/back", "part"],
            "link to a folder that is searched already",
        ),
    }


def test_a_folder_that_holds_what_an_earlier_link_showed_is_told(tmp_path: Path) -> None:
    photos, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    photos.mkdir()
    _tree(elsewhere, "a.jpg", "deep/b.jpg")
    (photos / "1").symlink_to(elsewhere / "deep")
    (photos / "2").symlink_to(elsewhere)
    found = list_files(photos)
    assert usable_names(found) == ["1/b.jpg", "2/a.jpg"]
    assert reasons_by_name(found) == {"2/deep": "folder that is searched already"}


def test_what_we_write_ourselves_is_no_photo(tmp_path: Path) -> None:
    _tree(tmp_path, "a.jpg", ".lock", ".unfinished-1-2-b.jpg", "ex/vectors.npy", "ex/.lock")
    _tree(tmp_path, "ex/done/extract.json", "done/1.jpg", "done/1.json", "work/.lock", "work/2.jpg", "out/x")
    (tmp_path / "to out").symlink_to(tmp_path / "out")
    found = list_files(tmp_path, leave_out=tmp_path / "out")
    assert found["name"].tolist() == ["a.jpg", "done/1.jpg", "done/1.json", "work/2.jpg"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir(mode=0)
    assert reasons_by_name(list_files(tmp_path)) == {"shut": "cannot be read: Permission denied"}
