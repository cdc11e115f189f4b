import os
from pathlib import Path

from groundwork.folder import list_files


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
        "link": "link to a folder",
        "pipe": "not a regular file",
    }
    assert (found["size"] == 0).all()
