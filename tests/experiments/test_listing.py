"""What the commands take for photos of a folder is what the scan takes for them."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnimretrieval.descriptors.extract import ExtractConfig
from cnnimretrieval.descriptors.store import extract
from cnnimretrieval.descriptors.windows import RegionConfig
from cnnimretrieval.networks.network import NetworkConfig, build
from cnnimretrieval.search.ranking import Answer, Hit
from experiments.commands.listing import all_below, judged, regions
from experiments.commands.ranking import as_table
from experiments.exit_codes import UsageFault
from groundwork.executors import SerialExecutor
from groundwork.lock import hold
from sfm.collection import scan
from sfm.inspection import ScanConfig


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two photos, one behind a link to a folder, and files of every kind that are none."""
    folder, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    for at, path in enumerate((folder / "a.png", elsewhere / "b.png")):
        path.parent.mkdir()
        levels = np.random.default_rng(at).integers(0, 256, (80, 90, 3), dtype=np.uint8)
        Image.fromarray(levels).save(path)
    (folder / "album").symlink_to(elsewhere)
    (folder / "round").symlink_to(folder)
    (folder / "empty.jpg").touch()
    (folder / "notes.txt").write_text("text")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:3000])
    (folder / "iphone.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic1")
    Image.fromarray(levels).save(folder / "holiday.jpg", "EPS")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.png")).write_bytes(b"any")
    return folder


def test_extract_and_reconstruct_reject_the_same_for_the_same_reasons(photos: Path, tmp_path: Path) -> None:
    scanned = scan(photos, tmp_path / "sfm", ScanConfig(), SerialExecutor()).table
    requests, passed_over = all_below(photos, tmp_path / "ex")
    network = build(NetworkConfig(backbone="squeezenet1_1"), "random")
    config = ExtractConfig(image_size=64)
    described = extract(network, requests, photos, tmp_path / "ex", config, passed_over=passed_over)
    assert described.images["name"].tolist() == ["a.png", "album/b.png"]
    rejected = scanned[scanned["status"] == "rejected"]
    assert described.rejected.to_numpy().tolist() == rejected[["name", "reason"]].to_numpy().tolist()
    assert dict(described.rejected.to_numpy().tolist()) == {
        "\\xff.png": "name is not UTF-8",
        "cut.png": "truncated",
        "empty.jpg": "empty",
        "gone.jpg": "cannot be read: No such file or directory",
        "holiday.jpg": "not an image",
        "iphone.jpg": "HEIC: damaged",
        "notes.txt": "not an image",
        "pipe.jpg": "not a regular file",
        "round": "link to a folder that is searched already",
    }
    assert described.meta.rejected == 9


def test_what_we_write_is_not_judged(photos: Path, tmp_path: Path) -> None:
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps([{"query": "a.png", "positives": ["album/b.png"]}]))
    before = judged(str(truth), photos).database
    with hold(photos), hold(photos / "ex"):
        (photos / "ex" / "done").mkdir()
        (photos / "ex" / "done" / "extract.json").write_text("{}")
        (photos / "ex" / "vectors.npy").write_bytes(b"any")
    assert judged(str(truth), photos).database == before
    assert "album/b.png" in before


def test_names_cannot_command_the_terminal() -> None:
    hits = (Hit(name="b\n\x1b[2Jc\u202e.jpg", score=0.5, box=None),)
    table = as_table([Answer(query=Path("q\t.jpg"), hits=hits)])
    assert table == "q\\t.jpg\n    1   0.5000  b\\n\\x1b[2Jc\\u202e.jpg"


@pytest.mark.parametrize("text", ["1", "x", "2,2", "2,9", ""])
def test_other_regions_than_grids_are_refused(text):
    with pytest.raises(UsageFault, match="--regions") as error:
        regions(text)
    assert str(error.value) == (
        f"--regions: expected different numbers from 2 to 6, got '{text}'; write 2 or 2,3"
    )


def test_regions_are_grids():
    assert regions("3,2") == RegionConfig(grids=(3, 2))
    assert regions(None) is None
