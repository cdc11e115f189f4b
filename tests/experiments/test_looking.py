"""The commands that look at what there is, on files as the stages leave them."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from experiments import cli
from groundwork.files import write_json, write_table


@pytest.fixture
def extracted(tmp_path):
    """Two copies and another photo, with descriptors."""
    photos, folder = tmp_path / "photos", tmp_path / "descriptors"
    photos.mkdir()
    folder.mkdir()
    blocks = [np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8) for seed in (0, 1)]
    first, second = (Image.fromarray(one).resize((96, 72), Image.Resampling.BICUBIC) for one in blocks)
    first.save(photos / "a\n.png")
    first.resize((48, 36)).save(photos / "b.jpg")
    second.save(photos / "c.png")
    np.save(folder / "vectors.npy", np.eye(2, dtype=np.float32)[[0, 0, 1]])
    write_table(folder / "images.parquet", pd.DataFrame({"name": ["a\n.png", "b.jpg", "c.png"]}))
    write_json(folder / "meta.json", {"version": 1, "photos": str(photos)})
    return folder


def test_near_copies_as_a_table_and_as_json(extracted, capsys):
    assert cli.main(["duplicates", str(extracted)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("a\\n.png  96 x 72  ")
    assert lines[1].startswith("  b.jpg  48 x 36  ")
    assert lines[1].endswith("  1.000")
    assert lines[2:] == ["1 group, 1 of 3 photos near-copies of another; 1 pair compared"]
    assert cli.main(["duplicates", str(extracted), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [copy["name"] for copy in found["groups"][0]] == ["a\n.png", "b.jpg"]


def test_near_copies_need_the_photos(extracted, tmp_path, capsys):
    (tmp_path / "photos").rename(tmp_path / "moved")
    assert cli.main(["duplicates", str(extracted)]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"cnnimretrieval: photos of DIR: expected a folder, got {tmp_path}/photos, which does not exist; "
        "check the path"
    ]


def test_places_become_folders(tmp_path, capsys):
    photos, sfm, out = tmp_path / "photos", tmp_path / "sfm", tmp_path / "out"
    photos.mkdir()
    (photos / "a.jpg").write_text("a")
    write_table(sfm / "images.parquet", pd.DataFrame({"name": ["a.jpg"], "place": [3]}))
    write_json(sfm / "photos.json", {"photos": str(photos)})
    assert cli.main(["places", str(sfm), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"1 photo of 1 place, symbolic links\n{out}\n"
    assert (out / "place-001" / "a.jpg").read_text() == "a"
    assert cli.main(["places", str(sfm), "--out", str(photos)]) == 1
    assert "expected an empty folder or one of places" in capsys.readouterr().err
