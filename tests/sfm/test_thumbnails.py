from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import sfm.thumbnails
from groundwork.files import read_table
from sfm.thumbnails import Source, gather_thumbnails, no_thumbnails, write_with_thumbnails


def test_thumbnails_go_where_they_belong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sfm.thumbnails, "_ROWS", 4)
    rng = np.random.default_rng(0)
    first, second = (rng.integers(0, 256, (number, 576), dtype=np.uint8) for number in (11, 3))
    for path, thumbnails in ((tmp_path / "1", first), (tmp_path / "2", second)):
        table = pd.DataFrame({"name": [f"{row}.jpg" for row in range(len(thumbnails))]})
        write_with_thumbnails(path, table, thumbnails)
        assert read_table(path, ["name"]).equals(table)
    sources = [
        Source(tmp_path / "1", np.array([0, 3, 4, 9]), np.array([8, 1, 0, 5])),
        Source(tmp_path / "2", np.arange(3), np.array([2, 3, 6])),
    ]
    gathered = gather_thumbnails(tmp_path / "scan" / "all.npy", 9, sources)
    expected = no_thumbnails(9)
    expected[[8, 1, 0, 5]], expected[[2, 3, 6]] = first[[0, 3, 4, 9]], second
    assert gathered.tolist() == expected.tolist()
    assert gather_thumbnails(tmp_path / "none.npy", 0, []).shape == (0, 576)
