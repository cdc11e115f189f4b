import os

import pandas as pd
import pytest

from groundwork.files import write_json, write_table
from sfm.place_folders import write_place_folders

# By place: 5 has three photos, 2 two whose names would become one; the last belongs to none.
NAMES = ["b/1.jpg", "b/2.jpg", "c.jpg", "a__x.jpg", "A/x.jpg", "loose.jpg"]
PLACES = [5, 5, 5, 2, 2, -1]


@pytest.fixture
def sfm(tmp_path):
    photos, folder = tmp_path / "photos", tmp_path / "sfm"
    for name in NAMES:
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).write_text(name)
    write_table(folder / "images.parquet", pd.DataFrame({"name": NAMES, "place": PLACES}))
    write_json(folder / "photos.json", {"photos": str(photos)})
    return folder


def _content(out):
    return {
        str(path.relative_to(out)): path.read_text()
        for path in out.rglob("*")
        if path.name != "places.json"
        if path.is_file()
    }


EXPECTED = {
    "place-001/b__1.jpg": "b/1.jpg",
    "place-001/b__2.jpg": "b/2.jpg",
    "place-001/c.jpg": "c.jpg",
    "place-002/A__x.jpg": "A/x.jpg",
    "place-002/a__x-2.jpg": "a__x.jpg",
}


def test_every_photo_of_a_place_is_linked_to(sfm, tmp_path):
    out = tmp_path / "out"
    made = write_place_folders(sfm, out)
    assert (made.places, made.photos, made.kind) == (2, 5, "symbolic links")
    assert _content(out) == EXPECTED
    assert all(path.is_symlink() for path in out.glob("*/*"))


def test_a_system_that_refuses_symbolic_links_gets_hard_ones(sfm, tmp_path, monkeypatch):
    def refused(*_, **__):
        raise OSError("A required privilege is not held by the client")

    monkeypatch.setattr(os, "symlink", refused)
    made = write_place_folders(sfm, tmp_path / "out")
    assert made.kind == "hard links"
    assert _content(tmp_path / "out") == EXPECTED
    assert os.path.samefile(tmp_path / "out" / "place-001" / "c.jpg", tmp_path / "photos" / "c.jpg")
    monkeypatch.setattr(os, "link", refused)
    with pytest.raises(
        ValueError, match=r"expected leave to link to .* on Windows turn on developer mode, or take an --out"
    ):
        write_place_folders(sfm, tmp_path / "out")


def test_it_is_written_anew_and_the_photos_stay(sfm, tmp_path, monkeypatch):
    out = tmp_path / "out"
    for _ in range(2):
        write_place_folders(sfm, out)
    table = pd.read_parquet(sfm / "images.parquet").assign(place=[0, 1, 1, -1, -1, -1])
    write_table(sfm / "images.parquet", table)
    write_place_folders(sfm, out)
    assert _content(out) == {
        "place-001/b__2.jpg": "b/2.jpg",
        "place-001/c.jpg": "c.jpg",
        "place-002/b__1.jpg": "b/1.jpg",
    }
    assert all((tmp_path / "photos" / name).read_text() == name for name in NAMES)


def test_a_folder_with_anything_else_is_refused(sfm, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match=r"expected an empty folder or one of places, got .* with mine\.txt"):
        write_place_folders(sfm, out)
    (out / "mine.txt").unlink()
    write_place_folders(sfm, out)
    (out / "place-001" / "notes.txt").write_text("keep")
    with pytest.raises(ValueError, match=r"expected links in .*place-001, got notes\.txt; move it away"):
        write_place_folders(sfm, out)
    assert (out / "place-001" / "notes.txt").read_text() == "keep"


def test_a_folder_without_a_reconstruction_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="places: expected a folder that reconstruction finished"):
        write_place_folders(tmp_path, tmp_path / "out")


def test_names_too_long_for_a_file_are_shortened(sfm, tmp_path):
    name = "/".join(["d" * 100] * 3) + "/e.jpg"
    (tmp_path / "photos" / name).parent.mkdir(parents=True)
    (tmp_path / "photos" / name).write_text("deep")
    write_table(sfm / "images.parquet", pd.DataFrame({"name": [name], "place": [0]}))
    write_place_folders(sfm, tmp_path / "out")
    ((link, content),) = _content(tmp_path / "out").items()
    assert content == "deep"
    assert link.endswith("d__e.jpg")
