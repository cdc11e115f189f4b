from pathlib import Path

import pytest

from groundwork.photo_source import PhotoSource, read_source, write_source


def test_a_source_says_where_photos_lie_and_what_they_hold_if_that_is_known(tmp_path: Path) -> None:
    write_source(PhotoSource(photos="/photos"), tmp_path)
    assert (tmp_path / "photos.json").read_text() == '{\n "photos": "/photos",\n "version": 1\n}\n'
    assert (read_source(tmp_path).folder, read_source(tmp_path).content) == (Path("/photos"), "")
    write_source(PhotoSource(photos="a/../b", content="ab"), tmp_path)
    assert read_source(tmp_path) == PhotoSource(photos="a/../b", content="ab")
    assert read_source(tmp_path).folder == Path.cwd() / "b"


def test_a_damaged_source_is_named(tmp_path: Path) -> None:
    (tmp_path / "photos.json").write_text('{"photos": 3}')
    with pytest.raises(ValueError, match=r"photos\.json: expected values of ours, got 'photos' = 3: "):
        read_source(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_source(tmp_path / "none")
