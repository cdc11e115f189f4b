import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from groundwork.executors import SerialExecutor
from groundwork.files import read_json
from groundwork.photos import Photo, inspect_photo
from sfm.collection import Collection, scan
from sfm.inspection import ScanConfig


def _photo(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (80, 100), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")
    return path


def _scan(photos: Path, out: Path) -> Collection:
    return scan(photos, out, ScanConfig(), SerialExecutor())


def _outcomes(collection: Collection) -> dict[str, tuple[str, str]]:
    table = collection.table
    return {row["name"]: (row["status"], row["reason"]) for _, row in table.iterrows()}


def test_every_file_is_listed_once_with_its_fate(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    _photo(photos / "b" / "with space\nand line.png", 1)
    _photo(photos / "a.png", 2)
    (photos / "b" / "copy.png").write_bytes((photos / "a.png").read_bytes())
    (photos / "empty.jpg").touch()
    (photos / "notes.txt").write_text("text")
    os.mkfifo(photos / "pipe")
    (photos / "gone.png").symlink_to("nowhere.png")
    (photos / "linked.png").symlink_to("b/with space\nand line.png")
    (photos / "loop").symlink_to(photos)
    Path(os.fsdecode(os.fsencode(photos) + b"/\xff.png")).write_bytes((photos / "a.png").read_bytes())
    _photo(photos / "out" / "plot.png", 3)
    collection = _scan(photos, photos / "out")
    assert _outcomes(collection) == {
        "\\xff.png": ("rejected", "name is not UTF-8"),
        "a.png": ("usable", ""),
        "b/copy.png": ("duplicate", "same bytes as a.png"),
        "b/with space\nand line.png": ("usable", ""),
        "empty.jpg": ("rejected", "empty"),
        "gone.png": ("rejected", "cannot be read: No such file or directory"),
        "linked.png": ("duplicate", "same bytes as b/with space\nand line.png"),
        "loop": ("rejected", "link to a folder that is searched already"),
        "notes.txt": ("rejected", "not an image"),
        "pipe": ("rejected", "not a regular file"),
    }
    assert collection.table["name"].tolist() == sorted(collection.table["name"])
    usable = collection.usable
    assert usable["image_id"].tolist() == [1, 2]
    assert usable[["width", "height", "orientation"]].to_numpy().tolist() == [[100, 80, 1]] * 2
    assert usable[["focal_px", "latitude", "longitude"]].isna().all(axis=None)


def test_what_exif_tells_is_listed(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8825).update({1: "S", 2: (33.0, 30.0, 0.0), 3: "E", 4: (151.0, 15.0, 0.0)})
    pixels = np.random.default_rng(0).integers(0, 256, (80, 100), dtype=np.uint8)
    (tmp_path / "photos").mkdir()
    Image.fromarray(pixels).save(tmp_path / "photos" / "a.jpg", exif=exif)
    usable = _scan(tmp_path / "photos", tmp_path / "out").usable
    assert usable[["latitude", "longitude"]].to_numpy().tolist() == [[-33.5, 151.25]]


def test_the_key_follows_names_and_bytes_only(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    _photo(photos / "a.png", 1)
    _photo(photos / "b.png", 2)
    key = _scan(photos, tmp_path / "out").key
    os.utime(photos / "a.png", (1, 1))
    (photos / "notes.txt").write_text("text")
    assert _scan(photos, tmp_path / "out").key == key
    (photos / "b.png").rename(photos / "c.png")
    renamed = _scan(photos, tmp_path / "out").key
    assert renamed != key
    _photo(photos / "c.png", 3)
    assert _scan(photos, tmp_path / "out").key not in (key, renamed)


def test_a_second_scan_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = tmp_path / "photos"
    _photo(photos / "a.png")
    first = _scan(photos, tmp_path / "out")

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr("sfm.inspection.inspect_photo", forbidden)
    second = _scan(photos, tmp_path / "out")
    assert second.key == first.key
    assert second.table.equals(first.table)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _ids(collection: Collection) -> dict[str, int]:
    return dict(zip(collection.usable["name"], collection.usable["image_id"].tolist(), strict=True))


def test_known_photos_keep_their_numbers(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    for seed, name in enumerate(("b.png", "d.png", "f.png")):
        _photo(photos / name, seed)
    (photos / "z.png").write_bytes((photos / "d.png").read_bytes())
    known = _ids(_scan(photos, out))
    assert list(known.values()) == [1, 2, 3]
    assert list(known) == sorted(known, key=lambda name: _digest(photos / name))
    _photo(photos / "e.png", 7)
    _photo(photos / "a.png", 8)
    (photos / "c.png").write_bytes((photos / "f.png").read_bytes())
    (photos / "z.png").unlink()
    grown = _scan(photos, out)
    new = sorted(("a.png", "e.png"), key=lambda name: _digest(photos / name))
    assert _ids(grown) == known | {new[0]: 4, new[1]: 5}
    assert _outcomes(grown)["c.png"] == ("duplicate", "same bytes as f.png")
    assert grown.table["name"].tolist() == ["a.png", "b.png", "c.png", "d.png", "e.png", "f.png"]
    assert _ids(_scan(photos, out)) == _ids(grown)
    assert grown.key != _scan(photos, tmp_path / "other").key


def test_a_known_photo_keeps_its_number_under_another_name(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    for seed, name in enumerate(("b.png", "d.png", "f.png")):
        _photo(photos / name, seed)
    (photos / "z.png").write_bytes((photos / "d.png").read_bytes())
    known = _ids(_scan(photos, out))
    (photos / "deep").mkdir()
    (photos / "b.png").rename(photos / "deep" / "y.png")
    (photos / "d.png").unlink()
    _photo(photos / "a.png", 7)
    found = _ids(_scan(photos, out))
    assert found == {
        "deep/y.png": known["b.png"],
        "z.png": known["d.png"],
        "f.png": known["f.png"],
        "a.png": 4,
    }


@pytest.mark.parametrize("change", ["gone", "other bytes"])
def test_a_lost_photo_starts_the_numbers_afresh(
    tmp_path: Path, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    _photo(photos / "b.png", 1)
    _photo(photos / "c.png", 2)
    _scan(photos, out)
    _photo(photos / "a.png", 3)
    if change == "gone":
        (photos / "b.png").unlink()
    else:
        _photo(photos / "b.png", 4)
    caplog.set_level("INFO", "sfm.numbering")
    fresh = _scan(photos, tmp_path / "fresh")
    grown = _scan(photos, out)
    assert grown.table.equals(fresh.table)
    assert grown.key == fresh.key
    assert caplog.messages == [
        "scan: known photos are gone or changed; all photos are numbered afresh",
    ]


def test_growth_decodes_the_new_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    _photo(photos / "b.png", 1)
    (photos / "c.png").write_bytes((photos / "b.png").read_bytes())
    (photos / "notes.txt").write_text("text")
    _scan(photos, out)
    _photo(photos / "a.png", 2)
    opened = []

    def noted(path: Path, **settings: float) -> Photo:
        opened.append(path.name)
        return inspect_photo(path, **settings)

    monkeypatch.setattr("sfm.inspection.inspect_photo", noted)
    grown = _scan(photos, out)
    assert opened == ["a.png"]
    assert _outcomes(grown) == {
        "a.png": ("usable", ""),
        "b.png": ("usable", ""),
        "c.png": ("duplicate", "same bytes as b.png"),
        "notes.txt": ("rejected", "not an image"),
    }
    scan(photos, out, ScanConfig(min_side_px=65), SerialExecutor())
    assert opened == ["a.png", "a.png", "b.png", "c.png", "notes.txt"]


def _scene(path: Path, width: int, seed: int = 0) -> Path:
    """A photo of 16 x 12 gray squares, as wide as asked for: the same for a seed at any size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    squares = np.random.default_rng(seed).integers(0, 256, (12, 16), dtype=np.uint8)
    Image.fromarray(squares).resize((width, width * 3 // 4), Image.Resampling.BICUBIC).save(path)
    return path


def test_near_copies_are_listed_with_the_largest(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    _scene(photos / "a.png", 160)
    _scene(photos / "b.png", 320)
    _scene(photos / "c.jpg", 320)
    (photos / "d.png").write_bytes((photos / "a.png").read_bytes())
    _scene(photos / "other.png", 160, seed=1)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(photos / "b.png").rotate(90, expand=True).save(photos / "turned.jpg", exif=exif)
    used, *copies = sorted(["b.png", "c.jpg", "turned.jpg"], key=lambda name: -(photos / name).stat().st_size)
    collection = _scan(photos, tmp_path / "out")
    assert _outcomes(collection) == {
        "a.png": ("duplicate", f"near-copy of {used}"),
        **{name: ("duplicate", f"near-copy of {used}") for name in copies},
        used: ("usable", ""),
        "d.png": ("duplicate", "same bytes as a.png"),
        "other.png": ("usable", ""),
    }
    assert _ids(collection).keys() == {used, "other.png"}
    assert sorted(_ids(collection).values()) == [1, 2]
    record = read_json(tmp_path / "out" / "done" / "scan.json")
    assert record["facts"]["near-copies"] == 3
    again = _scan(photos, tmp_path / "out")
    assert again.table.equals(collection.table)
    config = ScanConfig(near_copies=False)
    every = scan(photos, tmp_path / "out", config, SerialExecutor())
    assert sorted(every.usable["name"]) == ["a.png", "b.png", "c.jpg", "other.png", "turned.jpg"]
    assert _scan(photos, tmp_path / "out").table.equals(collection.table)


def test_a_known_photo_stays_the_original(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    _scene(photos / "m.png", 160)
    _scene(photos / "n.png", 100)
    _scene(photos / "x.png", 160, seed=1)
    known = _ids(_scan(photos, out))
    assert known.keys() == {"m.png", "x.png"}
    _scene(photos / "a.png", 320)
    _scene(photos / "b.png", 200, seed=2)
    _scene(photos / "z.png", 240, seed=2)
    grown = _scan(photos, out)
    assert _ids(grown) == known | {"z.png": 3}
    assert {name: why for name, (status, why) in _outcomes(grown).items() if status == "duplicate"} == {
        "a.png": "near-copy of m.png",
        "b.png": "near-copy of z.png",
        "n.png": "near-copy of m.png",
    }
    (photos / "m.png").unlink()
    assert _ids(_scan(photos, out)).keys() == {"a.png", "x.png", "z.png"}
    assert _scan(photos, out).table.equals(_scan(photos, tmp_path / "fresh").table)


def test_what_is_no_folder_of_photos_is_told(tmp_path: Path) -> None:
    file = _photo(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError) as missing:
        _scan(tmp_path / "gone", tmp_path / "out")
    assert str(missing.value) == (
        f"photos: expected a folder, got {tmp_path}/gone, which is missing; check the path"
    )
    with pytest.raises(NotADirectoryError) as no_folder:
        _scan(file, tmp_path / "out")
    assert str(no_folder.value) == (
        f"photos: expected a folder, got the file {file}; name the folder it is in"
    )
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"photos .*/empty: expected") as empty:
        _scan(tmp_path / "empty", tmp_path / "out")
    assert str(empty.value) == (
        f"photos {tmp_path}/empty: expected at least one readable photo, got an empty folder; check the path"
    )
    (tmp_path / "texts").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "texts" / name).write_text(name)
    (tmp_path / "texts" / "c").write_text("")
    with pytest.raises(ValueError, match=r"got 3 files \(2 not an image, 1 empty\); check the path$"):
        _scan(tmp_path / "texts", tmp_path / "out")
