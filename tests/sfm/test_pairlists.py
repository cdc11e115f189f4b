from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sfm.model import Model, save_model
from sfm.pair_table import pair_table
from sfm.pairlists import most_covisible, write_pair_list, write_pair_lists

NAMES = ("a.jpg", "b b.jpg", "c.jpg", "d.jpg")


@pytest.fixture
def model() -> Model:
    """Points seen: a 0 1 2 3, b 0 1, c 0 1 2 (0 twice), d 3."""
    seen = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 1), (2, 0), (2, 0), (2, 1), (2, 2), (3, 3)]
    return Model(
        names=NAMES,
        rotations=np.tile(np.eye(3), (4, 1, 1)),
        translations=np.zeros((4, 3)),
        focal_px=np.full(4, 500.0),
        sizes=np.tile([640, 480], (4, 1)),
        points=np.random.default_rng(0).uniform(size=(4, 3)),
        track_image=np.array([image for image, _ in seen]),
        track_point=np.array([point for _, point in seen]),
        track_xy=np.ones((len(seen), 2)),
        place=0,
    )


def test_covisible_images_come_by_shared_points(model: Model) -> None:
    pairs = most_covisible(model, neighbours=2).to_numpy().tolist()
    a, b, c, d = NAMES
    assert pairs == [[a, c], [a, b], [b, a], [b, c], [c, a], [c, b], [d, a]]


def test_names_that_hold_anything_but_blanks_are_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ['"', "'a,b", "\\", "é", "x\u3000y", "x\ny", "x\udce9"]
    pairs = pd.DataFrame({"name1": names, "name2": ["z.jpg"] * len(names)}, dtype=object)
    path = tmp_path / "pairs.txt"
    assert write_pair_list(path, [pairs[:3], pairs[3:]]) == (5, 2)
    written = path.read_bytes().decode("utf-8", "surrogateescape").splitlines()
    assert written == [f"{name} z.jpg" for name in ('"', "'a,b", "\\", "é", "x\udce9")]
    assert caplog.messages == [f"{path}: 2 pairs left out: a name with a blank cannot be written"]


def test_lists_as_hloc_reads_them(model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_model(model, tmp_path / "0" / "arrays.npz")
    tried = pair_table(np.array([[1, 2], [1, 3], [3, 4]]))
    trusted = pair_table(np.array([[1, 3], [3, 4]]), inliers=[20, 31])
    with caplog.at_level("WARNING"):
        write_pair_lists(tmp_path, "key", pd.Series(NAMES), tried, trusted, [tmp_path / "0"])
    read = {path.name: path.read_text() for path in tmp_path.glob("*.txt")}
    assert read == {
        "pairs-candidates.txt": "a.jpg c.jpg\nc.jpg d.jpg\n",
        "pairs-verified.txt": "c.jpg d.jpg\na.jpg c.jpg\n",
        "pairs-covisible.txt": "a.jpg c.jpg\na.jpg d.jpg\nc.jpg a.jpg\nd.jpg a.jpg\n",
    }
    told = [record.getMessage() for record in caplog.records]
    path = tmp_path / "pairs-candidates.txt"
    assert told[0] == f"{path}: 1 pairs left out: a name with a blank cannot be written"
    caplog.clear()
    write_pair_lists(tmp_path, "key", pd.Series(NAMES), tried, trusted, [tmp_path / "0"])
    assert not caplog.records
