"""Published files and exports from the command line."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import cli
from pairs.interchange import photo_of, read_training_pairs

PICKLE = Path(__file__).parents[1] / "golden" / "pairs" / "retrieval-SfM-tiny.pkl"


@pytest.fixture
def data(tmp_path):
    """Photos of the right names; what they show does not matter here."""
    for side in read_training_pairs(PICKLE):
        for number, cid in enumerate(side.cids):
            path = tmp_path / "data" / "ims" / photo_of(cid)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 9, 3), number, np.uint8)).save(path, "PNG")
    return tmp_path / "data"


@pytest.mark.parametrize("folder", [".", "ims"])
def test_a_published_file_is_mined_and_exported(data, tmp_path, capsys, folder):
    pairs, out = str(tmp_path / "pairs"), str(tmp_path / "out")
    assert cli.main(["mine", str(PICKLE), "--photos", str(data / folder), "--out", pairs]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "25 positives of 21 queries, 14 clusters, 14 places",
        f"{pairs}/positives.parquet",
    ]
    assert cli.main(["export", pairs, "--out", out, "--name", "mine"]) == 0
    assert capsys.readouterr().out == f"{out}/mine.pkl\n"
    assert Path(out, "mine-whiten.pkl").is_file()


def test_photos_and_a_published_file_belong_together(data, tmp_path, capsys):
    out = ["--out", str(tmp_path / "pairs")]
    assert cli.main(["mine", str(PICKLE), *out]) == 2
    assert cli.main(["mine", str(data), "--photos", str(data), *out]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "cnnimretrieval: --photos: expected the folder of the photos of retrieval-SfM-tiny.pkl, got none; "
        "give it",
        "cnnimretrieval: --photos: expected it with a .pkl only, got a folder; leave it out",
    ]
